// What of the events is shown: kinds, a channel, a text; and pause, clear and save.

import { element } from './element.js'

export class FilterBar {
  #bar
  #events
  #counts = new Map()

  constructor(bar, events, kinds) {
    this.#bar = bar
    this.#events = events
    const { text, topic } = bar.elements
    bar.addEventListener('submit', (event) => event.preventDefault())
    text.addEventListener('input', () => events.filter({ text: text.value }))
    topic.addEventListener('change', () => events.filter({ topic: topic.value }))
    bar.querySelector('.kinds').append(...kinds.map((kind) => this.#kind(kind)))
    bar.querySelector('.pause').addEventListener('click', () => this.togglePause())
    bar.querySelector('.clear').addEventListener('click', () => events.clear())
    bar.querySelector('.save').addEventListener('click', () => this.#save())
  }

  /** Offers these topics to choose from. */
  offer(topics) {
    const { topic } = this.#bar.elements
    const last = topic.value
    topic.replaceChildren(element('option', { value: '' }, 'all channels'), ...topics.map((name) => element('option', { value: name }, name)))
    topic.value = topics.includes(last) ? last : ''
    if (topic.value !== last) this.#events.filter({ topic: '' })
  }

  focus() {
    this.#bar.elements.text.focus()
  }

  togglePause() {
    this.#events.paused = !this.#events.paused
  }

  /** Shows counts once the list is drawn. */
  tell({ shown, count, total }) {
    const { paused, waiting } = this.#events
    const pause = this.#bar.querySelector('.pause')
    pause.setAttribute('aria-pressed', String(paused))
    pause.textContent = paused ? `Resume${waiting ? ` (${waiting} new)` : ''}` : 'Pause'
    const counts = this.#events.countByKind()
    for (const [kind, node] of this.#counts) node.textContent = counts[kind]
    const nothing = document.getElementById('no-events')
    nothing.hidden = count > 0
    nothing.textContent = total === 0 ? 'Nothing has come yet.' : 'Nothing here passes the filter.'
    document.getElementById('event-count').textContent =
      count === 0 ? '' : shown < count ? `the newest ${shown} of ${count} shown` : count < total ? `${count} of ${total}` : `${count}`
  }

  #kind(kind) {
    const count = element('span', { class: 'count' }, '0')
    this.#counts.set(kind, count)
    const box = element('input', { type: 'checkbox', name: 'kind', value: kind, checked: kind !== 'protocol' })
    box.addEventListener('change', () => {
      const kinds = [...this.#bar.querySelectorAll('[name=kind]:checked')].map(({ value }) => value)
      this.#events.filter({ kinds })
    })
    return element('label', { 'data-kind': kind }, box, element('span', {}, kind), count)
  }

  /** What is shown as lines of JSON, in the order it came. */
  #save() {
    const lines = this.#events.shown(Infinity).entries.reverse().map(({ at_ms, direction, kind, topic, title, latency, payload }) =>
      JSON.stringify({ at: new Date(at_ms).toISOString(), direction, kind, topic, title, latency_ms: latency?.ms ?? null, payload }),
    )
    const file = URL.createObjectURL(new Blob([`${lines.join('\n')}\n`], { type: 'application/x-ndjson' }))
    element('a', { href: file, download: 'events.jsonl' }).click()
    // The browser reads it when the click is over.
    setTimeout(() => URL.revokeObjectURL(file), 60_000)
  }
}
