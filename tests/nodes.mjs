// Several nodes, as an operator runs them: processes of the real program, one Postgres, one Redis.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { dataFolder, program, Walcast } from './walcast.mjs'

const LIMIT_MS = 30_000

/** The program of Redis, if there is one. */
export const redisProgram =
  process.env.WALCAST_TEST_REDIS ||
  ['redis-server', 'valkey-server'].find((name) => spawnSync(name, ['--version']).status === 0)

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function until(what, ask) {
  const end_ms = performance.now() + LIMIT_MS
  while (!(await ask())) {
    if (performance.now() > end_ms) throw new Error(`not within ${LIMIT_MS} ms: ${what}`)
    await setTimeout(50)
  }
}

/** A Redis that keeps nothing. */
export class Redis {
  static async start() {
    const redis = new Redis()
    redis.port = await freePort()
    redis.folder = await dataFolder()
    await redis.launch()
    return redis
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`
  }

  async launch() {
    const args = ['--port', String(this.port), '--bind', '127.0.0.1', '--save', '', '--dir', this.folder.path]
    this.child = spawn(redisProgram, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    const ready = once(this.child.stdout, 'data')
    this.child.stdout.resume()
    await ready
  }

  async stop() {
    const ended = once(this.child, 'close')
    this.child.kill('SIGKILL')
    await ended
  }

  async remove() {
    await this.stop()
    await this.folder.remove()
  }
}

/** A node, alone without a Redis. What clients need of it is named as with `Walcast`. */
export class Node {
  static async start(walcast, redis, settings) {
    const node = new Node()
    const port = await freePort()
    Object.assign(node, { port, url: `http://127.0.0.1:${port}`, anon_key: walcast.anon_key })
    const env = {
      PATH: process.env.PATH,
      PORT: String(port),
      DATABASE_URL: walcast.database_url,
      API_JWT_SECRET: walcast.jwt_secret,
      ...(redis && { REDIS_URL: redis.url }),
      LOG_LEVEL: 'warn',
      ...settings,
    }
    node.child = spawn(program, ['serve'], { env, stdio: ['ignore', 'ignore', 'pipe'] })
    const log = []
    node.child.stderr.on('data', (chunk) => log.push(chunk))
    node.ended = once(node.child, 'close').then(([code]) => ({ code, log: Buffer.concat(log).toString() }))
    await node.is('ready')
    return node
  }

  /** What /readyz says; the empty text while nobody listens. */
  async health() {
    try {
      return await (await fetch(`${this.url}/readyz`)).text()
    } catch {
      return ''
    }
  }

  /** Returns when /readyz says so. */
  async is(health) {
    await until(`${this.url} is ${health}`, async () => {
      if (this.child.exitCode !== null) throw new Error(`a node ended: ${(await this.ended).log}`)
      return (await this.health()) === health
    })
  }

  async stop(signal = 'SIGTERM') {
    this.child.kill(signal)
    return this.ended
  }
}

/** Some nodes, with environment variables of their own. `walcast` is there for its Postgres and its keys alone. */
export class Nodes {
  static async start(count, settings = {}) {
    const nodes = new Nodes()
    nodes.settings = settings
    nodes.walcast = await Walcast.start()
    nodes.redis = await Redis.start()
    nodes.all = await Promise.all(Array.from({ length: count }, () => nodes.#start()))
    return nodes
  }

  #start() {
    return Node.start(this.walcast, this.redis, this.settings)
  }

  /** One more. */
  async add() {
    const node = await this.#start()
    this.all.push(node)
    return node
  }

  async stop() {
    await Promise.all(this.all.map((node) => node.stop()))
    await this.redis.remove()
    await this.walcast.stop()
  }
}
