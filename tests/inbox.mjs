// Things that happen, in order, to be awaited one by one.

const LIMIT_MS = 10_000

export class Inbox {
  #waiting = []
  #arrived = []

  constructor(name) {
    this.name = name
  }

  push(thing) {
    const taker = this.#waiting.shift()
    if (taker) taker.resolve(thing)
    else this.#arrived.push(thing)
  }

  /** How many things have not been taken. */
  get size() {
    return this.#arrived.length
  }

  /** The oldest thing not taken yet; fails when none comes within the limit. */
  async next(limit_ms = LIMIT_MS) {
    if (this.#arrived.length > 0) return this.#arrived.shift()
    const { promise, resolve, reject } = withResolvers()
    const taker = { resolve }
    this.#waiting.push(taker)
    const timer = setTimeout(() => {
      this.#waiting.splice(this.#waiting.indexOf(taker), 1)
      reject(new Error(`no ${this.name} within ${limit_ms} ms`))
    }, limit_ms)
    try {
      return await promise
    } finally {
      clearTimeout(timer)
    }
  }

  /** The next thing that passes; what comes before it is dropped. */
  async until(passes, limit_ms = LIMIT_MS) {
    const end_ms = performance.now() + limit_ms
    for (;;) {
      const thing = await this.next(Math.max(0, end_ms - performance.now()))
      if (passes(thing)) return thing
    }
  }
}

// Promise.withResolvers is not in Node 20.
function withResolvers() {
  let resolve, reject
  const promise = new Promise((...both) => ([resolve, reject] = both))
  return { promise, resolve, reject }
}
