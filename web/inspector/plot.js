// The last minute as a drawing: messages a second as bars, and the latency of those that have one as dots.

import { element, shape } from './element.js'
import { milliseconds } from './event-list.js'

const SECONDS = 60
const WIDTH = 600
const HEIGHT = 72
/** Enough for a median that is true, at any rate. */
const MOST_SAMPLES = 200

export class Plot {
  #seconds = new Map()
  #bars = shape('path', { class: 'plot-bars' })
  #dots = shape('path', { class: 'plot-dots' })
  #words = element('figcaption', {})

  constructor(figure) {
    const base = shape('line', { x1: 0, y1: HEIGHT - 0.5, x2: WIDTH, y2: HEIGHT - 0.5, class: 'plot-base' })
    figure.append(
      shape(
        'svg',
        { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
        base,
        this.#bars,
        this.#dots,
      ),
      this.#words,
    )
    this.#draw()
    setInterval(() => document.hidden || this.#draw(), 500)
  }

  /** Counts a message that came. */
  add({ at_ms, latency }) {
    const second = Math.floor(at_ms / 1000)
    const of = this.#seconds.get(second) ?? { count: 0, samples: [] }
    of.count += 1
    if (latency && of.samples.length < MOST_SAMPLES) of.samples.push(latency.ms)
    this.#seconds.set(second, of)
    for (const old of this.#seconds.keys()) {
      if (old >= second - SECONDS) break
      this.#seconds.delete(old)
    }
  }

  #draw() {
    const now = Math.floor(Date.now() / 1000)
    const step = WIDTH / SECONDS
    const seconds = Array.from({ length: SECONDS }, (_, i) => this.#seconds.get(now - SECONDS + 1 + i))
    const most = ceiling(Math.max(1, ...seconds.map((of) => of?.count ?? 0)))
    const medians = seconds.map((of) => (of?.samples.length ? Math.max(0, quantile(of.samples.toSorted((a, b) => a - b), 0.5)) : null))
    const latest = ceiling(Math.max(1, ...medians.filter((ms) => ms !== null)))
    const bar = (of, i) => {
      const height = of ? Math.max(1.5, (of.count / most) * (HEIGHT - 8)) : 0
      return height ? `M${i * step + 1} ${HEIGHT}v${-height}h${step - 2}v${height}z` : ''
    }
    const dot = (ms, i) => (ms === null ? '' : `M${(i + 0.5) * step} ${HEIGHT - 5 - (ms / latest) * (HEIGHT - 12)}h0.01`)
    this.#bars.setAttribute('d', seconds.map(bar).join(''))
    this.#dots.setAttribute('d', medians.map(dot).join(''))
    this.#tell(seconds, most, latest)
  }

  #tell(seconds, most, latest) {
    const count = seconds.reduce((sum, of) => sum + (of?.count ?? 0), 0)
    const samples = seconds.flatMap((of) => of?.samples ?? []).sort((a, b) => a - b)
    // The second that has not ended yet says too little.
    const rate = seconds.at(-2)?.count ?? 0
    const at = (share) => milliseconds(quantile(samples, share))
    const figures = samples.length
      ? [['median', at(0.5)], ['p95', at(0.95)], ['slowest', at(1)]]
      : [['latency', '–']]
    const key = (kind, text) => element('span', { class: `plot-key plot-key-${kind}` }, text)
    this.#words.replaceChildren(
      key('bars', `a second, up to ${most}`),
      key('dots', `latency, up to ${milliseconds(latest)}`),
      ...[['last minute', String(count)], ['now', `${rate}/s`], ...figures].map(([name, value]) =>
        element('span', { class: 'plot-figure' }, `${name} `, element('b', {}, value)),
      ),
    )
  }
}

/** The next of 1, 2, 5, 10, 20, 50, … */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value)
}

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]
}
