// Runs the real program, `walcast dev`, in a folder of its own.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createHmac } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import pg from 'pg'

export const project = fileURLToPath(new URL('..', import.meta.url))
export const program = process.env.WALCAST_BIN || join(project, 'target/debug/walcast')
const modules = fileURLToPath(new URL('node_modules', import.meta.url))
const version = process.env.WALCAST_TEST_PG ? ['--postgres', process.env.WALCAST_TEST_PG] : []

/** Runs `walcast dev` with more arguments; `stopped` resolves to its exit code and what it wrote to stderr. */
export function run(args, { binary = program, log_level = 'warn', ...options } = {}) {
  const env = { ...process.env, LOG_LEVEL: log_level }
  const child = spawn(binary, ['dev', ...version, '--modules', modules, ...args], { env, ...options })
  const log = []
  child.stderr.on('data', (chunk) => log.push(chunk))
  const stopped = once(child, 'close').then(([code, signal]) => ({ code, signal, log: Buffer.concat(log).toString() }))
  return { child, stopped }
}

/** A folder for data, which the account that runs Postgres may enter, also where root runs the tests. */
export async function dataFolder() {
  const folder = await mkdtemp(join(tmpdir(), 'walcast-test-'))
  await chmod(folder, 0o755)
  return { path: folder, remove: () => rm(folder, { recursive: true, force: true }) }
}

/** A running server. `url`, keys and the address of Postgres are as it printed them. */
export class Walcast {
  /** Starts one; without `data` in a folder that goes with it. The rest goes to `run`. */
  static async start({ data, port = 0, ...options } = {}) {
    const walcast = new Walcast()
    walcast.options = options
    walcast.folder = data ? null : await dataFolder()
    walcast.data = data ?? walcast.folder.path
    await walcast.#launch(port)
    return walcast
  }

  async #launch(port) {
    const { child, stopped } = run(['--json', '--port', String(port), '--data', this.data], {
      // Read when it ends before its time.
      log_level: 'info',
      ...this.options,
    })
    this.child = child
    this.stopped = stopped
    const lines = createInterface({ input: child.stdout })
    const [line] = await Promise.race([
      once(lines, 'line'),
      stopped.then(({ code, log }) => Promise.reject(new Error(`walcast dev ended with ${code}: ${log}`))),
    ])
    Object.assign(this, JSON.parse(line))
    this.port = Number(new URL(this.url).port)
    this.pool = new pg.Pool({ connectionString: this.database_url, max: 4 })
    // Postgres closes the idle ones when it stops.
    this.pool.on('error', () => {})
  }

  /** Rows of a statement, run as the superuser. */
  async sql(text, values) {
    return (await this.pool.query(text, values)).rows
  }

  /** A token of a signed-in user. */
  userToken(sub, claims = {}) {
    const now_s = Math.floor(Date.now() / 1000)
    return this.sign({ role: 'authenticated', sub, iat: now_s, exp: now_s + 3600, ...claims })
  }

  sign(claims) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
    const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
    return `${signed}.${createHmac('sha256', this.jwt_secret).update(signed).digest('base64url')}`
  }

  /** Ends the server at once, as a crash does. */
  crash() {
    return this.#end('SIGKILL')
  }

  /** A crash, and a start at the same place. */
  async crashAndRestart() {
    await this.crash()
    await this.#launch(this.port)
  }

  async #end(signal) {
    if (signal) this.child.kill(signal)
    else this.child.stdin.end()
    const ended = await this.stopped
    await this.pool.end()
    return ended
  }

  /** Ends the server as the end of whoever started it does. */
  async abandon() {
    const ended = await this.#end()
    await this.folder?.remove()
    return ended
  }

  /** Ends the server as Ctrl-C does. */
  async stop() {
    const ended = await this.#end('SIGINT')
    await this.folder?.remove()
    return ended
  }
}
