// What has come and gone: kept within bounds, filtered, held still while somebody reads.

import { KINDS, searchable } from './entry.js'

const MOST_ENTRIES = 5_000
const MOST_BYTES = 32 << 20
/** What an entry without a known size is taken for. */
const SMALL_BYTES = 500

/** Events: `change`, whenever what is shown, or a count, may be another. */
export class Events extends EventTarget {
  #entries = []
  #bytes = 0
  #held = null
  #topic = ''
  #text = ''
  #kinds = new Set(KINDS.filter((kind) => kind !== 'protocol'))

  add(entry) {
    this.#entries.push(entry)
    this.#bytes += entry.bytes ?? SMALL_BYTES
    while (this.#entries.length > MOST_ENTRIES || (this.#bytes > MOST_BYTES && this.#entries.length > 1)) {
      this.#bytes -= this.#entries.shift().bytes ?? SMALL_BYTES
    }
    this.#changed()
  }

  clear() {
    this.#entries = []
    this.#bytes = 0
    if (this.#held) this.#held = []
    this.#changed()
  }

  get paused() {
    return this.#held !== null
  }

  set paused(paused) {
    this.#held = paused ? [...this.#entries] : null
    this.#changed()
  }

  /** How many that would be shown came since the pause. */
  get waiting() {
    const last = this.#held?.at(-1)?.number ?? 0
    return this.paused ? this.#entries.filter((entry) => entry.number > last && this.#passes(entry)).length : 0
  }

  /** `{ topic, text, kinds }`; empty means all. What is not given stays. */
  filter({ topic = this.#topic, text = this.#text, kinds = this.#kinds }) {
    this.#topic = topic
    this.#text = text.trim().toLowerCase()
    this.#kinds = new Set(kinds)
    this.#changed()
  }

  /** What is shown, the newest first, at most this many; and how many there are of all. */
  shown(most) {
    const found = (this.#held ?? this.#entries).filter((entry) => this.#passes(entry))
    return { entries: found.slice(-most).reverse(), count: found.length, total: (this.#held ?? this.#entries).length }
  }

  /** How many there are of each kind. */
  countByKind() {
    const counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]))
    for (const { kind } of this.#held ?? this.#entries) counts[kind] += 1
    return counts
  }

  #passes(entry) {
    if (!this.#kinds.has(entry.kind)) return false
    if (this.#topic && entry.topic !== this.#topic) return false
    return !this.#text || searchable(entry).includes(this.#text)
  }

  #changed() {
    this.dispatchEvent(new Event('change'))
  }
}
