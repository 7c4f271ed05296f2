// Server-sent events, as `curl` and an `EventSource` read them (decision 28).

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { after, before, test } from 'node:test'
import { Inbox } from './inbox.mjs'
import { program, Walcast } from './walcast.mjs'

const HEARTBEAT_MS = 100
const RETRY_MS = 50

let walcast
before(async () => {
  walcast = await Walcast.start()
  await walcast.sql(`
    create table public.steps (id int primary key, owner text);
    grant select on public.steps to anon, authenticated;
    alter table public.steps enable row level security;
    create policy own on public.steps for select to authenticated using ((select auth.jwt() ->> 'sub') = owner);
    alter publication supabase_realtime add table public.steps;
  `)
})
after(() => walcast.stop())

const STEPS = JSON.stringify({ event: '*', schema: 'public', table: 'steps' })
const step = (id, owner = 'ada') => walcast.sql('insert into public.steps values ($1, $2)', [id, owner])

function address(parameters) {
  const url = new URL('/realtime/v1/sse', walcast.url)
  for (const [name, value] of Object.entries(parameters)) url.searchParams.append(name, value)
  return url
}

/** What the standard says an EventSource does, with a URL that may differ from one connection to the next. */
class Source {
  events = new Inbox('events')
  comments = new Inbox('comments')
  opens = new Inbox('opens')
  lastEventId = ''
  #aborter = new AbortController()

  constructor(url) {
    // Closing it ends the request with an error.
    this.#run(url).catch((error) => error.name === 'AbortError' || this.opens.push(error))
  }

  close() {
    this.#aborter.abort()
  }

  async #run(url) {
    const { signal } = this.#aborter
    while (!signal.aborted) {
      const headers = { accept: 'text/event-stream', ...(this.lastEventId && { 'last-event-id': this.lastEventId }) }
      const response = await fetch(url(), { headers, signal })
      this.opens.push(response.status)
      if (response.status !== 200) return
      await this.#read(response.body)
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    }
  }

  async #read(body) {
    const decoder = new TextDecoder()
    let text = ''
    for await (const bytes of body) {
      text += decoder.decode(bytes, { stream: true })
      const blocks = text.split('\n\n')
      text = blocks.pop()
      for (const block of blocks) this.#dispatch(block)
    }
  }

  #dispatch(block) {
    const fields = {}
    for (const line of block.split('\n')) {
      if (line.startsWith(':')) this.comments.push(performance.now())
      const [, name, value] = line.match(/^(\w+): (.*)$/) ?? []
      if (name) fields[name] = value
    }
    this.lastEventId = fields.id ?? this.lastEventId
    if (fields.data) this.events.push({ type: fields.event, id: fields.id, ...JSON.parse(fields.data) })
  }

  /** The id of the row of the next change. */
  async row() {
    const { payload } = await this.events.until(({ type }) => type === 'postgres_changes')
    return payload.data.record.id
  }
}

test('who is cut off by the server comes back by itself and misses nothing', async () => {
  // The stream ends with its token; the next connection brings a new one.
  const token = () => walcast.sign({ role: 'authenticated', sub: 'ada', exp: Math.floor(Date.now() / 1000) + 2 })
  const source = new Source(() => address({ topic: 'steps', postgres_changes: STEPS, token: token() }))
  assert.equal(await source.opens.next(), 200)
  const joined = await source.events.next()
  assert.equal(joined.payload.message, 'Joined')
  assert.match(joined.id, /^[0-9A-F]+\/[0-9A-F]+:\d+$/)

  let written = 0
  let opens = 1
  while (opens < 3) {
    written += 1
    await step(written)
    await step(-written, 'ben')
    if (source.opens.size > 0) {
      assert.equal(await source.opens.next(), 200)
      opens += 1
    }
  }
  const rows = []
  while (rows.length < written) rows.push(await source.row())
  assert.deepEqual(rows, Array.from({ length: written }, (_, at) => at + 1))
  source.close()
})

test('comments come at the heartbeat', async () => {
  const port = await freePort()
  const server = spawn(program, ['serve'], {
    env: {
      ...process.env,
      LOG_LEVEL: 'warn',
      WALCAST_HOST: '127.0.0.1',
      PORT: String(port),
      DATABASE_URL: walcast.database_url,
      API_JWT_SECRET: walcast.jwt_secret,
      WALCAST_SSE_HEARTBEAT_MS: String(HEARTBEAT_MS),
    },
    stdio: 'ignore',
  })
  const ended = once(server, 'exit')
  const url = address({ topic: 'quiet', token: walcast.anon_key })
  url.port = port
  // The test's own limit ends it.
  while (!(await fetch(new URL('/healthcheck', url)).catch(() => null)));
  const source = new Source(() => url)
  const first_ms = await source.comments.next()
  await source.comments.next()
  const third_ms = await source.comments.next()
  assert.ok(third_ms - first_ms >= HEARTBEAT_MS, `${third_ms - first_ms} ms`)
  source.close()
  server.kill('SIGTERM')
  assert.equal((await ended)[0], 0)
})

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

test('curl reads a stream line by line, and nothing of it is left when curl is gone', async () => {
  const url = address({ topic: 'news' })
  const curl = spawn('curl', ['-sN', '-H', `apikey: ${walcast.anon_key}`, String(url)])
  const lines = new Inbox('lines')
  createInterface({ input: curl.stdout }).on('line', (line) => lines.push(line))
  await lines.until((line) => line.includes('"message":"Joined"'))

  const sent = await fetch(new URL('/api/broadcast/news/events/flash', walcast.url), {
    method: 'POST',
    headers: { apikey: walcast.anon_key, 'content-type': 'application/json' },
    body: JSON.stringify({ text: 'hello' }),
  })
  assert.equal(sent.status, 202)
  assert.equal(await lines.until((line) => line.startsWith('event: ') && line !== 'event: system'), 'event: broadcast')
  const data = JSON.parse((await lines.next()).replace(/^data: /, ''))
  assert.deepEqual(data, {
    topic: 'news',
    payload: { type: 'broadcast', event: 'flash', payload: { text: 'hello' } },
  })

  curl.kill()
  await once(curl, 'close')
  for (const name of ['walcast_event_streams', 'walcast_sockets', 'walcast_channels']) {
    // Looked at again until the server has noticed; the test's own limit ends it.
    while ((await figure(name)) !== 0);
  }
})

async function figure(name) {
  const text = await (await fetch(new URL('/metrics', walcast.url))).text()
  return Number(text.match(new RegExp(`^${name} (\\S+)$`, 'm'))[1])
}
