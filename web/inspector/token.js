// What a JWT says about its bearer, for showing. Whether it is true is for the server to check.

/** The claims, or null if it is no JWT. Whitespace in it is forgiven, as the server does. */
export function claimsOf(token) {
  const parts = token.replace(/\s/g, '').split('.')
  if (parts.length !== 3) return null
  try {
    const bytes = Uint8Array.from(atob(parts[1].replace(/-/g, '+').replace(/_/g, '/')), (letter) => letter.charCodeAt(0))
    const claims = JSON.parse(new TextDecoder().decode(bytes))
    return claims && typeof claims === 'object' && !Array.isArray(claims) ? claims : null
  } catch {
    return null
  }
}

/** Role, subject and end, in a few words. */
export function describeToken(token) {
  const claims = claimsOf(token)
  if (!claims) return 'This is not a JWT: three parts of letters, digits, - and _ with dots between.'
  const who = [claims.role ? `role ${claims.role}` : 'no role', claims.sub ? `sub ${claims.sub}` : null]
  return [...who.filter(Boolean), ending(claims.exp)].join(' · ')
}

function ending(exp) {
  if (typeof exp !== 'number') return 'no exp'
  const left_s = exp - Date.now() / 1000
  if (left_s <= 0) return `expired ${new Date(exp * 1000).toLocaleString()}`
  const units = [['year', 31_536_000], ['day', 86_400], ['hour', 3_600], ['minute', 60]]
  const [unit, seconds] = units.find(([, seconds]) => left_s >= 2 * seconds) ?? ['second', 1]
  return `expires in ${Math.floor(left_s / seconds)} ${unit}s`
}
