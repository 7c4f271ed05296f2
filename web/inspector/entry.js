// A message of the protocol as one line for people.

const PREFIX = 'realtime:'
const PROTOCOL = { phx_join: 'join', phx_leave: 'leave', phx_reply: 'reply', phx_close: 'close', phx_error: 'error', access_token: 'token', heartbeat: 'heartbeat' }

/** Kinds of entries, in the order they are offered; `protocol` is joins, answers and heartbeats. */
export const KINDS = ['change', 'broadcast', 'presence', 'system', 'protocol']

let count = 0

/**
 * `{ number, at_ms, direction, kind, topic, title, summary, payload, bytes, latency }` of a message. Tokens are left
 * out, so that what is copied from here can be shown around.
 */
export function entryOf({ direction, message, at_ms, bytes }, latency) {
  const { event, payload } = message
  const kind = kindOf(message, direction)
  count += 1
  return {
    number: count,
    at_ms,
    direction,
    kind,
    topic: message.topic.startsWith(PREFIX) ? message.topic.slice(PREFIX.length) : message.topic,
    ...WORDS[kind](event, payload ?? {}),
    payload: event === 'access_token' || event === 'phx_join' ? withoutTokens(payload) : readable(payload),
    bytes,
    latency,
  }
}

/** The text that a search looks through. */
export function searchable(entry) {
  entry.text ??= `${entry.kind} ${entry.topic} ${entry.title} ${JSON.stringify(entry.payload)}`.toLowerCase()
  return entry.text
}

function kindOf({ event }) {
  if (event === 'postgres_changes' || event === 'INSERT' || event === 'UPDATE' || event === 'DELETE') return 'change'
  if (event === 'broadcast' || event === 'system') return event
  if (event === 'presence' || event === 'presence_state' || event === 'presence_diff') return 'presence'
  return 'protocol'
}

const WORDS = {
  change(event, payload) {
    const data = payload.data ?? payload
    const { type, schema, table, errors } = data
    const row = type === 'DELETE' ? data.old_record : data.record
    const replayed = payload.replayed ? ' (missed, told now)' : ''
    return { title: `${type} ${schema}.${table}${replayed}`, summary: errors?.length ? errors.join('; ') : brief(row) }
  },
  broadcast(event, { event: name, payload, meta }) {
    return { title: `${name}${meta?.replayed ? ' (replayed)' : ''}`, summary: brief(readable(payload)) }
  },
  presence(event, payload) {
    if (event === 'presence') return { title: payload.event ?? 'presence', summary: brief(payload.payload) }
    if (event === 'presence_state') return { title: 'who is there', summary: Object.keys(payload).join(', ') || 'nobody' }
    const joins = Object.keys(payload.joins ?? {})
    const leaves = Object.keys(payload.leaves ?? {})
    const changed = joins.filter((key) => leaves.includes(key))
    const parts = [
      ['joined', joins.filter((key) => !changed.includes(key))],
      ['changed', changed],
      ['left', leaves.filter((key) => !changed.includes(key))],
    ].filter(([, keys]) => keys.length)
    return { title: parts.map(([word]) => word).join(', '), summary: parts.map(([, keys]) => keys.join(', ')).join(' · ') }
  },
  system(event, { extension, status, message, warnings }) {
    const more = warnings?.length ? ` · ${warnings.length} ${warnings.length === 1 ? 'warning' : 'warnings'}` : ''
    return { title: `${extension ?? 'system'}: ${status}${more}`, summary: String(message ?? '') }
  },
  protocol(event, payload) {
    const title = PROTOCOL[event] ?? event
    if (event !== 'phx_reply') return { title, summary: '' }
    return { title: `${title}: ${payload.status}`, summary: payload.response?.reason ?? brief(payload.response) }
  },
}

function brief(value) {
  const text = JSON.stringify(value) ?? ''
  return text === '{}' ? '' : text.slice(0, 300)
}

function withoutTokens(payload) {
  const { access_token, user_token, ...rest } = payload ?? {}
  return access_token || user_token ? { ...rest, access_token: '(hidden)' } : rest
}

/** Bytes have no JSON; they are shown as their number and their first ones. */
function readable(value) {
  if (value instanceof ArrayBuffer) {
    const first = Array.from(new Uint8Array(value, 0, Math.min(32, value.byteLength)), (byte) => byte.toString(16).padStart(2, '0'))
    return { bytes: value.byteLength, begins: first.join(' ') }
  }
  return value && value.payload instanceof ArrayBuffer ? { ...value, payload: readable(value.payload) } : value
}
