// How long a message took, and between which two moments. Where nothing tells when it began there is no figure.

const COMMIT = 'from the commit in Postgres (commit_timestamp, the server’s clock) to its arrival here (this browser’s clock)'
const ECHO = 'from sending it here to its echo'
const STAMP = 'from sent_at in its payload (the sender’s clock) to its arrival here (this browser’s clock)'
const ROUNDTRIP = 'from the request to this answer'

/** Sent and not yet seen again. More than this many are forgotten. */
const MOST_PENDING = 500

/** Remembers what was sent, so that answers and echoes can be timed. */
export class Stopwatch {
  #requests = new Map()
  #sent = []

  /** Notes a message that goes out; `comesBack` if it is a broadcast on a channel that hears its own. */
  start({ topic, event, payload, ref }, at_ms, comesBack) {
    if (ref) this.#requests.set(ref, at_ms)
    if (this.#requests.size > MOST_PENDING) this.#requests.delete(this.#requests.keys().next().value)
    if (event !== 'broadcast' || !comesBack) return
    this.#sent.push({ sign: sign(topic, payload), at_ms })
    if (this.#sent.length > MOST_PENDING) this.#sent.shift()
  }

  /** `{ ms, what }` of a message that came, or null. */
  stop(message, at_ms) {
    const { event, payload, ref } = message
    if (event === 'phx_reply') {
      const began_ms = this.#requests.get(ref)
      this.#requests.delete(ref)
      return since(began_ms, at_ms, ROUNDTRIP)
    }
    // A change that was missed and is told later took as long as its client was away.
    if (event === 'postgres_changes') {
      return payload.replayed ? null : since(Date.parse(payload.data?.commit_timestamp), at_ms, COMMIT)
    }
    if (event !== 'broadcast' || payload.meta?.replayed) return null
    const mine = this.#sent.findIndex((sent) => sent.sign === sign(message.topic, payload))
    if (mine >= 0) return since(this.#sent.splice(mine, 1)[0].at_ms, at_ms, ECHO)
    const stamp = payload.payload?.sent_at
    return since(typeof stamp === 'string' ? Date.parse(stamp) : stamp, at_ms, STAMP)
  }
}

/** By which an echo is known again. */
function sign(topic, { event, payload }) {
  return JSON.stringify([topic, event, payload])
}

function since(began_ms, at_ms, what) {
  return Number.isFinite(began_ms) ? { ms: at_ms - began_ms, what } : null
}
