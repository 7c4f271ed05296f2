// What somebody on call works with: the description of the API, logs as JSON, and traces.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createInterface } from 'node:readline'
import { gunzipSync } from 'node:zlib'
import { after, before, test } from 'node:test'
import { Validator } from '@seriousme/openapi-schema-validator'
import WebSocket from 'ws'
import { program, Walcast } from './walcast.mjs'

let walcast
before(async () => {
  walcast = await Walcast.start()
})
after(() => walcast.stop())

/** The name of a span as protobuf has it: field 5 of `Span`, with its length. */
const span = (name) => Buffer.from([0x2a, name.length, ...Buffer.from(name)])

/** A collector of traces. */
class Collector {
  static async start() {
    const collector = new Collector()
    collector.received = []
    collector.waiting = []
    collector.server = createServer(async (request, response) => {
      const chunks = []
      for await (const chunk of request) chunks.push(chunk)
      const body = Buffer.concat(chunks)
      collector.received.push({ path: request.url, kind: request.headers['content-type'], body })
      response.writeHead(200, { 'content-type': 'application/x-protobuf' }).end()
      for (const look of collector.waiting.splice(0)) look()
    })
    collector.server.listen(0, '127.0.0.1')
    await once(collector.server, 'listening')
    collector.url = `http://127.0.0.1:${collector.server.address().port}`
    return collector
  }

  /** The first request whose body has all of these strings or bytes. */
  async until(...parts) {
    for (;;) {
      const found = this.received.find(({ body }) => parts.every((part) => body.includes(part)))
      if (found) return found
      await new Promise((resolve) => this.waiting.push(resolve))
    }
  }

  /** That spans of these names have come, with others or by themselves. */
  async spans(...names) {
    for (const name of names) await this.until(span(name))
  }

  stop() {
    this.server.close()
    this.server.closeAllConnections()
  }
}

/** A server beside the one of `walcast dev`, on its database, with settings; logs as JSON. */
class Beside {
  static async start(settings) {
    const beside = new Beside()
    const env = {
      PATH: process.env.PATH,
      DATABASE_URL: walcast.database_url,
      API_JWT_SECRET: walcast.jwt_secret,
      WALCAST_HOST: '127.0.0.1',
      PORT: '0',
      WALCAST_LOG_FORMAT: 'json',
      CONNECT_ERROR_BACKOFF_MS: '0',
      CHANNEL_ERROR_BACKOFF_MS: '0',
      ...settings,
    }
    beside.child = spawn(program, ['serve'], { env, stdio: ['ignore', 'inherit', 'pipe'] })
    beside.stopped = once(beside.child, 'close')
    beside.lines = []
    beside.waiting = []
    createInterface({ input: beside.child.stderr }).on('line', (line) => {
      // Every line is JSON, or this throws.
      beside.lines.push(JSON.parse(line))
      for (const look of beside.waiting.splice(0)) look()
    })
    const { address } = await beside.line(({ message }) => message === 'walcast listens')
    beside.address = address
    for (;;) {
      const response = await fetch(`http://${address}/readyz`)
      if ((await response.text()) === 'ready') return beside
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  async line(is) {
    for (;;) {
      const found = this.lines.find(is)
      if (found) return found
      await new Promise((resolve) => this.waiting.push(resolve))
    }
  }

  /** A socket that sends frames and waits for frames with an event. */
  async socket(key = walcast.anon_key) {
    const socket = new WebSocket(`ws://${this.address}/socket/websocket?vsn=2.0.0&apikey=${key}`)
    const frames = []
    let wake = () => {}
    socket.on('message', (data) => {
      frames.push(JSON.parse(data))
      wake()
    })
    await once(socket, 'open')
    const until = async (event) => {
      for (;;) {
        const at = frames.findIndex((frame) => frame[3] === event)
        if (at >= 0) return frames.splice(at, 1)[0]
        await new Promise((resolve) => (wake = resolve))
      }
    }
    return { socket, until, send: (frame) => socket.send(JSON.stringify(frame)) }
  }

  async stop() {
    this.child.kill('SIGTERM')
    await this.stopped
  }
}

test('the description of the API is valid OpenAPI', async () => {
  const response = await fetch(`${walcast.url}/api/openapi`)
  assert.equal(response.headers.get('content-encoding'), 'gzip')
  const document = await response.json()
  const validator = new Validator()
  const { valid, errors } = await validator.validate(structuredClone(document))
  assert.ok(valid, JSON.stringify(errors, null, 1))
  const ids = Object.values(document.paths).flatMap((item) =>
    ['get', 'post', 'put', 'patch', 'delete'].flatMap((method) => item[method]?.operationId ?? []))
  assert.equal(new Set(ids).size, ids.length, `an id is given twice: ${ids}`)
})

test('log lines are JSON with code, tenant, topic and request id, and health checks leave none', async () => {
  const beside = await Beside.start({ LOG_LEVEL: 'debug' })
  try {
    const id = 'a-request-id-of-our-own-making'
    const refused = await fetch(`http://${beside.address}/api/broadcast`, { method: 'POST', headers: { 'x-request-id': id } })
    assert.equal(refused.status, 401)
    assert.equal(refused.headers.get('x-request-id'), id)
    const line = await beside.line(({ code, span }) => code === 'MissingAPIKey' && span?.request_id === id)
    assert.equal(line.level, 'INFO')
    assert.equal(line.span.route, '/api/broadcast')
    assert.ok(line.cause && line.timestamp && line.message)

    const { send, until, socket } = await beside.socket()
    send(['1', '1', 'realtime:secret', 'phx_join', { config: { private: true } }])
    assert.equal((await until('phx_reply'))[4].status, 'error')
    const join = await beside.line(({ message }) => message === 'join refused')
    assert.equal(join.code, 'Unauthorized')
    assert.equal(join.topic, 'realtime:secret')
    assert.equal(join.span.topic, 'realtime:secret')
    assert.equal(typeof join.span.tenant, 'string')
    assert.ok(join.remedy)
    socket.close()

    for (const path of ['/healthcheck', '/readyz', '/metrics']) await fetch(`http://${beside.address}${path}`)
    await fetch(`http://${beside.address}/api/ping`)
    await beside.line(({ message, span }) => message === 'request answered' && span?.route === '/api/ping')
    const quiet = beside.lines.filter((line) => /healthcheck|readyz|metrics/.test(line.span?.route))
    assert.deepEqual(quiet, [])
  } finally {
    await beside.stop()
  }
})

test('traces of requests, joins, questions about rows and changes reach a collector', { timeout: 120_000 }, async () => {
  const collector = await Collector.start()
  const beside = await Beside.start({
    LOG_LEVEL: 'info',
    WALCAST_RLS: 'sql',
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
    OTEL_BSP_SCHEDULE_DELAY: '100',
  })
  try {
    const trace = '0af7651916cd43dd8448eb211c80319c'
    const parent = 'b7ad6b7169203331'
    await fetch(`http://${beside.address}/api/ping`, { headers: { traceparent: `00-${trace}-${parent}-01` } })
    const request = await collector.until(span('request'), '/api/ping', Buffer.from(trace, 'hex'), Buffer.from(parent, 'hex'))
    assert.equal(request.path, '/v1/traces')
    assert.equal(request.kind, 'application/x-protobuf')
    assert.ok(request.body.includes('service.name') && request.body.includes('walcast'))

    await walcast.sql(`create table public.traced (id int primary key);
      alter table public.traced enable row level security;
      create policy everybody on public.traced for select using (true);
      grant select on public.traced to anon;
      alter publication supabase_realtime add table public.traced`)
    const { send, until, socket } = await beside.socket()
    const changes = [{ event: '*', schema: 'public', table: 'traced' }]
    send(['1', '1', 'realtime:traced', 'phx_join', { config: { private: false, postgres_changes: changes } }])
    assert.equal((await until('phx_reply'))[4].status, 'ok')
    await collector.until(span('join'), 'realtime:traced')
    await collector.spans('token', 'subscribe')
    send(['2', '2', 'realtime:room', 'phx_join', { config: { private: true } }])
    await until('phx_reply')
    await collector.until(span('join'), 'realtime:room', 'Unauthorized')
    await collector.spans('rights')

    await walcast.sql('insert into public.traced values (1)')
    await until('postgres_changes')
    await collector.spans('visibility', 'change')
    socket.close()
  } finally {
    await beside.stop()
    collector.stop()
  }
})

test('without an endpoint nothing is sent, and figures can be had compressed', async () => {
  const collector = await Collector.start()
  const beside = await Beside.start({ LOG_LEVEL: 'info', OTEL_SDK_DISABLED: 'true', OTEL_EXPORTER_OTLP_ENDPOINT: collector.url })
  try {
    await fetch(`http://${beside.address}/api/ping`)
    const response = await new Promise((resolve, reject) => {
      import('node:http').then(({ get }) =>
        get(`http://${beside.address}/metrics`, { headers: { 'accept-encoding': 'gzip' } }, resolve).on('error', reject))
    })
    const chunks = []
    for await (const chunk of response) chunks.push(chunk)
    assert.match(gunzipSync(Buffer.concat(chunks)).toString(), /^walcast_http_requests_total\{route="\/api\/ping",status="200"\} 1$/m)
  } finally {
    // It sends what is left before it ends.
    await beside.stop()
    assert.deepEqual(collector.received, [])
    collector.stop()
  }
})
