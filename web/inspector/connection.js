// The socket, through the real client. It tells every message that passes, and why there is no connection.

import { RealtimeClient } from './vendor/realtime.js'

const HEARTBEAT_MS = 10_000
/** The client gives up a socket without channels; here somebody watches it. */
const NEVER_MS = 2 ** 31 - 1

/**
 * Events: `status` (`this.status` and `this.reason` have changed), `roundtrip` (`this.roundtrip_ms`), and `message`,
 * whose `detail` is `{ direction, message, at_ms, bytes }` with a message as the client has it: join_ref, ref, topic,
 * event, payload.
 */
export class Connection extends EventTarget {
  status = 'closed'
  reason = ''
  roundtrip_ms = null
  #client = null
  #asked = false

  /** `token` is a user's, if it is not the key that says who one is. */
  constructor({ endpoint, probe }, key, token = '') {
    super()
    this.key = key
    this.token = token || key
    this.probe = `${probe}?${new URLSearchParams({ apikey: key, vsn: '2.0.0' })}`
    const connection = this
    class WatchedSocket extends WebSocket {
      constructor(...rest) {
        super(...rest)
        let wasOpen = false
        this.addEventListener('open', () => {
          wasOpen = true
          connection.#become('open')
        })
        this.addEventListener('close', ({ code, reason }) => connection.#closed(wasOpen, code, reason))
      }
    }
    this.#client = new RealtimeClient(endpoint, {
      params: { apikey: key },
      transport: WatchedSocket,
      heartbeatIntervalMs: HEARTBEAT_MS,
      disconnectOnEmptyChannelsAfterMs: NEVER_MS,
      // Its default would be the console.
      logger: () => {},
      heartbeatCallback: (status, latency_ms) => {
        if (status !== 'ok' || typeof latency_ms !== 'number') return
        this.roundtrip_ms = latency_ms
        this.dispatchEvent(new Event('roundtrip'))
      },
      decode: (raw, done) =>
        this.#client.serializer.decode(raw, (message) => {
          this.#tell('in', message, raw.byteLength ?? raw.length)
          done(message)
        }),
      encode: (message, done) => {
        this.#tell('out', message, null)
        return this.#client.serializer.encode(message, done)
      },
    })
  }

  async open() {
    this.#become('connecting')
    await this.#client.setAuth(this.token)
    this.#client.connect()
  }

  /** A channel of the client. */
  channel(topic, config) {
    return this.#client.channel(topic, { config })
  }

  remove(channel) {
    return this.#client.removeChannel(channel)
  }

  async close() {
    this.#become('closed')
    await this.#client.removeAllChannels()
    await this.#client.disconnect()
  }

  #tell(direction, message, bytes) {
    if (!message?.topic) return
    const detail = { direction, message, bytes, at_ms: Date.now() }
    this.dispatchEvent(new CustomEvent('message', { detail }))
  }

  #become(status, reason = '') {
    this.status = status
    this.reason = reason
    this.dispatchEvent(new Event('status'))
  }

  #closed(wasOpen, code, reason) {
    if (this.status === 'closed' || this.status === 'refused') return
    if (wasOpen) return this.#become('lost', `closed with ${code}${reason ? `: ${reason}` : ''}; connecting again`)
    this.#become('lost', 'no connection; trying again')
    this.#askWhy()
  }

  /** A browser hides why a socket was refused; the same request without an upgrade is answered in words. */
  async #askWhy() {
    if (this.#asked) return
    this.#asked = true
    try {
      const answer = await fetch(this.probe, { headers: { accept: 'application/json' } })
      const { error } = await answer.json().catch(() => ({}))
      if (this.status === 'open' || this.status === 'closed') return
      if ([401, 403, 404].includes(answer.status)) {
        this.#become('refused', error ?? `The server answers ${answer.status}.`)
        await this.#client.disconnect()
      } else if (answer.status !== 400 && error) {
        this.#become('lost', `${error}; trying again`)
      }
    } catch {
      // The server is not there at all, which is what the status says already.
    } finally {
      this.#asked = false
    }
  }
}
