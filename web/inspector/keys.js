// Keys, kept for this tab alone: sessionStorage ends with it, and no other tab sees it.

const NAMES = { key: 'walcast.key', token: 'walcast.token', service: 'walcast.service-key' }

/** What was kept under `key`, `token` or `service`; empty if nothing. */
export function kept(name) {
  try {
    return sessionStorage.getItem(NAMES[name]) ?? ''
  } catch {
    // A browser may forbid storage. Then nothing is kept.
    return ''
  }
}

/** Keeps a key, or forgets it if it is empty. */
export function keep(name, value) {
  try {
    if (value) sessionStorage.setItem(NAMES[name], value)
    else sessionStorage.removeItem(NAMES[name])
  } catch {
    // As above.
  }
}
