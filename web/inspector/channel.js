// One channel: joined through the client, with what it is told about itself.

import { notices, refusal, topicPolicy, warnings } from './remedy.js'
import { claimsOf } from './token.js'

const WORDS = {
  SUBSCRIBED: 'joined',
  CHANNEL_ERROR: 'refused',
  TIMED_OUT: 'unanswered',
  CLOSED: 'closed',
}

/**
 * Events: `change`, whenever `status` (joining, joined, refused, unanswered, lost, closed, left), `notices` or
 * `presences` may be another.
 */
export class Channel extends EventTarget {
  status = 'joining'
  notices = []
  presences = {}
  #connection
  #channel

  constructor(connection, settings) {
    super()
    this.#connection = connection
    this.settings = settings
  }

  join() {
    const { topic, private: isPrivate, broadcast, presence, postgres_changes } = this.settings
    const channel = this.#connection.channel(topic, { private: isPrivate, broadcast, presence })
    this.#channel = channel
    channel.on('system', {}, (message) => this.#note(notices(message)))
    // What they hear is seen as it passes the socket.
    for (const binding of postgres_changes) channel.on('postgres_changes', binding, () => {})
    if (presence.enabled) {
      channel.on('presence', { event: 'sync' }, () => {
        this.presences = channel.presenceState()
        this.#changed()
      })
    }
    this.#become('joining')
    channel.subscribe((status, error) => this.#answered(channel, WORDS[status] ?? status, error))
  }

  async leave() {
    const channel = this.#channel
    this.#channel = null
    this.#become('left')
    if (channel) await this.#connection.remove(channel)
  }

  /** Over the socket. Resolves to a sentence about what came of it. */
  async send(event, payload) {
    if (this.status !== 'joined') return 'Not sent: the channel is not joined. It can be sent over HTTP.'
    const { ack } = this.settings.broadcast
    const began_ms = performance.now()
    const outcome = await this.#channel.send({ type: 'broadcast', event, payload })
    if (outcome === 'ok') return ack ? `Acknowledged after ${elapsed(began_ms)}.` : 'Sent. Only a channel with “ack” hears whether it was taken.'
    if (outcome === 'timed out' && this.settings.private) {
      return `Not taken: no answer within 10 s, as when no policy lets you send. ${this.#policy('write', 'broadcast')}`
    }
    return `Not taken: ${outcome}.`
  }

  /** Over HTTP, whether joined or not. Resolves to a sentence. */
  async sendOverHttp(event, payload) {
    const began_ms = performance.now()
    try {
      await this.#channel.httpSend(event, payload)
      return `Accepted over HTTP after ${elapsed(began_ms)}.`
    } catch (error) {
      const remedy = this.settings.private && error.message === 'Unauthorized' ? ` ${this.#policy('write', 'broadcast')}` : ''
      return `Refused over HTTP: ${error.message}.${remedy}`
    }
  }

  /** Makes oneself present, or others see another payload. Resolves to a sentence. */
  async track(payload) {
    if (this.status !== 'joined') return 'Not tracked: the channel is not joined.'
    const began_ms = performance.now()
    const outcome = await this.#channel.track(payload)
    if (outcome === 'ok') return `Tracked after ${elapsed(began_ms)}.`
    return `Not tracked: ${outcome}.${this.settings.private ? ` ${this.#policy('write', 'presence')}` : ''}`
  }

  async untrack() {
    if (this.status !== 'joined') return 'The channel is not joined.'
    const outcome = await this.#channel.untrack()
    return outcome === 'ok' ? 'No longer tracked.' : `Still tracked: ${outcome}.`
  }

  #policy(action, extension) {
    return `${topicPolicy(action, this.settings.topic, this.#role(), extension)};`
  }

  #role() {
    return claimsOf(this.#connection.token)?.role ?? 'authenticated'
  }

  #answered(channel, status, error) {
    // Left by us; what still comes concerns nobody.
    if (channel !== this.#channel) return
    if (status === 'joined') this.notices = this.notices.filter(({ level }) => level === 'warning')
    if (status === 'refused' && isLost(error)) status = 'lost'
    if (status === 'refused') {
      const said = error?.cause ?? {}
      const context = { topic: this.settings.topic, role: this.#role() }
      this.#note([refusal(said.reason ?? error?.message ?? 'The server gives no reason.', context), ...warnings(said)])
    }
    if (status === 'closed') {
      this.#channel = null
      this.presences = {}
    }
    this.#become(status)
  }

  /** The same is said again at every attempt to join. */
  #note(more) {
    const known = new Set(this.notices.map(({ sentence }) => sentence))
    const news = more.filter(({ sentence }) => !known.has(sentence))
    if (news.length === 0) return
    this.notices = [...news, ...this.notices].slice(0, 12)
    this.#changed()
  }

  #become(status) {
    this.status = status
    this.#changed()
  }

  #changed() {
    this.dispatchEvent(new Event('change'))
  }
}

/** The client reports a lost socket as it does a refusal. */
function isLost(error) {
  return error?.cause instanceof Event || error?.message === 'channel error: connection lost'
}

function elapsed(began_ms) {
  return `${Math.max(1, Math.round(performance.now() - began_ms))} ms`
}
