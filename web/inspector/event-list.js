// The list of events: newest first, each a button that opens its payload. One stop for Tab, arrows within.

import { copyButton } from './copy.js'
import { element } from './element.js'
import { jsonView } from './json.js'

/** More are counted, not drawn. */
const MOST_LINES = 200
/** More at once are a flood, in which none is news. */
const MOST_FRESH = 20
/** A pause between two drawings in a flood, so that the page can be used meanwhile. */
const FLOOD_PAUSE_MS = 250
/** What came longer ago is no news when it is drawn. */
const FRESH_MS = 1_000

export class EventList {
  #list
  #events
  #lines = new Map()
  #open = new Set()
  #asked = false
  #inFlood = false

  constructor(list, events, onDrawn) {
    this.#list = list
    this.#events = events
    this.onDrawn = onDrawn
    events.addEventListener('change', () => this.#drawSoon())
    list.addEventListener('keydown', (event) => this.#move(event))
    list.addEventListener('focusin', ({ target }) => target.matches('.line') && this.#makeStop(target))
    this.#drawSoon()
  }

  /** Moves the keyboard to the newest event. */
  focus() {
    this.#list.querySelector('.line')?.focus()
  }

  /** Once a frame, however many come in it; less often in a flood. */
  #drawSoon() {
    if (this.#asked) return
    this.#asked = true
    const draw = () =>
      requestAnimationFrame(() => {
        this.#asked = false
        this.#draw()
      })
    if (this.#inFlood) setTimeout(draw, FLOOD_PAUSE_MS)
    else draw()
  }

  #draw() {
    const { entries, count, total } = this.#events.shown(MOST_LINES)
    const wanted = new Set(entries.map(({ number }) => number))
    for (const [number, line] of this.#lines) {
      if (wanted.has(number)) continue
      line.remove()
      this.#lines.delete(number)
      this.#open.delete(number)
    }
    const fresh = entries.filter(({ number }) => !this.#lines.has(number)).length
    this.#inFlood = fresh > MOST_FRESH
    let before = this.#list.firstElementChild
    for (const entry of entries) {
      let line = this.#lines.get(entry.number)
      if (!line) {
        line = this.#line(entry)
        this.#lines.set(entry.number, line)
      }
      if (line === before) before = line.nextElementSibling
      else this.#list.insertBefore(line, before)
    }
    if (!this.#list.querySelector('.line[tabindex="0"]')) this.#list.querySelector('.line')?.setAttribute('tabindex', '0')
    this.onDrawn({ shown: entries.length, count, total })
  }

  #line(entry) {
    const { number, kind, direction, topic, title, summary, latency, at_ms } = entry
    const body = element('div', { class: 'event-body', id: `event-${number}`, hidden: true })
    const button = element(
      'button',
      { type: 'button', class: 'line', tabindex: '-1', 'aria-expanded': 'false', 'aria-controls': `event-${number}` },
      element('time', { datetime: new Date(at_ms).toISOString() }, clock(at_ms)),
      element('span', { class: 'kind' }, kind),
      element('span', { class: 'topic' }, topic),
      element('span', { class: 'title' }, direction === 'out' ? element('span', { class: 'sent' }, 'sent') : null, title),
      element('span', { class: 'summary' }, summary),
      element('span', { class: 'latency' }, latency ? milliseconds(latency.ms) : ''),
    )
    button.addEventListener('click', () => {
      const open = !this.#open.has(number)
      if (open) this.#open.add(number)
      else this.#open.delete(number)
      button.setAttribute('aria-expanded', String(open))
      body.hidden = !open
      body.replaceChildren(...(open ? details(entry) : []))
    })
    const isFresh = direction === 'in' && !this.#inFlood && Date.now() - at_ms < FRESH_MS
    return element('li', { class: isFresh ? 'event fresh' : 'event', 'data-kind': kind, 'data-direction': direction }, button, body)
  }

  #makeStop(line) {
    for (const other of this.#list.querySelectorAll('.line[tabindex="0"]')) other.setAttribute('tabindex', '-1')
    line.setAttribute('tabindex', '0')
  }

  #move(event) {
    if (!event.target.matches('.line')) return
    const lines = [...this.#list.querySelectorAll('.line')]
    const at = lines.indexOf(event.target)
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: lines.length - 1 }[event.key]
    if (to === undefined) return
    event.preventDefault()
    lines[Math.max(0, Math.min(to, lines.length - 1))].focus()
  }
}

function details({ latency, bytes, payload, direction, at_ms }) {
  const facts = [
    [direction === 'out' ? 'Sent' : 'Arrived', new Date(at_ms).toISOString()],
    ['Size', bytes === null ? null : `${bytes.toLocaleString('en')} bytes`],
    ['Latency', latency ? `${milliseconds(latency.ms)}, ${latency.what}${latency.ms < 0 ? '; below zero, so the two clocks differ' : ''}` : null],
  ].filter(([, value]) => value)
  const copy = copyButton(element('button', { type: 'button', class: 'quiet' }, 'Copy payload'), () => JSON.stringify(payload, null, 2))
  return [
    element('dl', { class: 'facts' }, facts.map(([name, value]) => element('div', {}, element('dt', {}, name), element('dd', {}, value)))),
    jsonView(payload),
    copy,
  ]
}

/** A time of day to the millisecond. */
function clock(at_ms) {
  const at = new Date(at_ms)
  return `${at.toLocaleTimeString('en-GB')}.${String(at.getMilliseconds()).padStart(3, '0')}`
}

/** A duration for people. */
export function milliseconds(ms) {
  return Math.abs(ms) < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}
