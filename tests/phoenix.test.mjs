// Phoenix' own JavaScript client, as those use it who have no supabase-js: sockets, channels and pushes.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { Socket } from 'phoenix'
import ws from 'ws'
import { connect, newest, subscribe } from './clients.mjs'
import { Inbox } from './inbox.mjs'
import { ADA, allow, BEN, build } from './rooms.mjs'
import { Walcast } from './walcast.mjs'

let walcast
before(async () => {
  walcast = await Walcast.start()
  await walcast.sql(`
    create table public.parcels (id int primary key, name text);
    grant select on public.parcels to anon;
    alter publication supabase_realtime add table public.parcels;
  `)
  await build(walcast)
})
after(() => walcast.stop())

const opened = []
after(() => Promise.all(opened.map((socket) => new Promise((closed) => socket.disconnect(closed)))))

/** A socket that is connecting, with the anonymous key. */
function open({ apikey = walcast.anon_key, path = '/realtime/v1', ...options } = {}) {
  const address = walcast.url.replace(/^http/, 'ws') + path
  const socket = new Socket(address, { params: { apikey }, transport: ws, ...options })
  opened.push(socket)
  socket.connect()
  return socket
}

/** How the server answers a push. */
const answered = (push) =>
  new Promise((resolve) => {
    for (const status of ['ok', 'error', 'timeout']) push.receive(status, (response) => resolve({ status, response }))
  })

/** A channel that is joined; what arrives by these events is in its inbox. `rest` is more of what it joins with. */
async function join(socket, topic, config = {}, events = ['broadcast'], rest = {}) {
  const heard = new Inbox(`message on ${topic}`)
  const channel = socket.channel(topic, { config, ...rest })
  for (const event of events) channel.on(event, (payload) => heard.push({ event, payload }))
  const closed = new Promise((resolve) => channel.onClose(resolve))
  assert.deepEqual(await answered(channel.join()), { status: 'ok', response: { postgres_changes: [] } })
  return { channel, heard, closed }
}

const note = (payload) => ({ type: 'broadcast', event: 'note', payload })

describe('a socket', () => {
  for (const path of ['/realtime/v1', '/socket']) {
    test(`opens at ${path}`, async () => {
      const socket = open({ path })
      await new Promise((resolve) => socket.onOpen(resolve))
      assert.equal(socket.connectionState(), 'open')
    })
  }

  test('with a wrong key is refused, with the reason', async () => {
    // What of the refusal a WebSocket of Node shows, and a browser hides.
    const refusal = new Inbox('refusal')
    class Told extends ws {
      constructor(...args) {
        super(...args)
        this.on('unexpected-response', async (_request, response) => {
          const body = Buffer.concat(await response.toArray()).toString()
          refusal.push({ status: response.statusCode, body: JSON.parse(body) })
        })
      }
    }
    const socket = open({ apikey: `${walcast.anon_key.slice(0, -5)}wrong`, transport: Told, reconnectAfterMs: () => 60_000 })
    assert.deepEqual(await refusal.next(), { status: 401, body: { error: 'Failed to validate JWT signature' } })
    assert.equal(socket.isConnected(), false)
  })

  test('has its heartbeats answered', async () => {
    const socket = open()
    await new Promise((resolve) => socket.onOpen(resolve))
    assert.equal(typeof (await new Promise((resolve) => socket.ping(resolve))), 'number')
  })

  test('that its server drops connects again, and its channels join again by themselves', async () => {
    const own = await Walcast.start()
    try {
      const socket = new Socket(`${own.url.replace(/^http/, 'ws')}/socket`, {
        params: { apikey: own.anon_key },
        transport: ws,
      })
      opened.push(socket)
      socket.connect()
      const joins = new Inbox('answer to a join')
      const channel = socket.channel('realtime:again', { config: { broadcast: { self: true } } })
      const heard = new Inbox('broadcast')
      channel.on('broadcast', (payload) => heard.push(payload))
      channel.join().receive('ok', (response) => joins.push(response))
      await joins.next()
      await own.crashAndRestart()
      await joins.next(30_000)
      channel.push('broadcast', note({ n: 1 }))
      assert.deepEqual(await heard.next(), note({ n: 1 }))
    } finally {
      await own.stop()
    }
  })
})

describe('a channel', () => {
  test('hears what another one pushes, as it was pushed', async () => {
    const sender = await join(open(), 'realtime:room')
    const receiver = await join(open(), 'realtime:room')
    for (const payload of [note({ text: 'hello' }), note({}), { event: 'bare' }, { ...note([1, null]), more: { x: 1.5 } }]) {
      sender.channel.push('broadcast', payload)
      assert.deepEqual(await receiver.heard.next(), { event: 'broadcast', payload })
    }
  })

  test('with ack has its pushes answered, and with self hears them before', async () => {
    const { channel, heard } = await join(open(), 'realtime:answered', { broadcast: { ack: true, self: true } })
    assert.deepEqual(await answered(channel.push('broadcast', note({ n: 1 }))), { status: 'ok', response: {} })
    assert.equal(heard.size, 1)
    const large = note({ text: 'x'.repeat(3_100_000) })
    assert.deepEqual(await answered(channel.push('broadcast', large)), {
      status: 'error',
      response: 'payload_size_exceeded',
    })
  })

  test('that leaves is answered, closed, and can be joined anew', async () => {
    const socket = open()
    const first = await join(socket, 'realtime:leaving')
    assert.deepEqual(await answered(first.channel.leave()), { status: 'ok', response: {} })
    await first.closed
    const second = await join(socket, 'realtime:leaving')
    const sender = await join(open(), 'realtime:leaving')
    sender.channel.push('broadcast', note({ n: 2 }))
    assert.deepEqual((await second.heard.next()).payload, note({ n: 2 }))
    assert.equal(first.heard.size, 0)
  })

  test('joined twice on a socket is the second one', async () => {
    const socket = open()
    const first = await join(socket, 'realtime:twice')
    const second = await join(socket, 'realtime:twice')
    await first.closed
    const sender = await join(open(), 'realtime:twice')
    sender.channel.push('broadcast', note({ n: 1 }))
    assert.deepEqual((await second.heard.next()).payload, note({ n: 1 }))
    assert.equal(first.heard.size, 0)
  })

  test('gets the changes of a table it asks for', async () => {
    const binding = { event: 'INSERT', schema: 'public', table: 'parcels', filter: 'id=gt.10' }
    const channel = open().channel('realtime:parcels', { config: { postgres_changes: [binding] } })
    const changes = new Inbox('change')
    channel.on('postgres_changes', (change) => changes.push(change))
    const { status, response } = await answered(channel.join())
    assert.equal(status, 'ok')
    const [{ id, ...echo }] = response.postgres_changes
    assert.deepEqual(echo, binding)
    await walcast.sql(`insert into public.parcels values (1, 'one'), (11, 'eleven')`)
    const { ids, data } = await changes.next()
    assert.deepEqual([ids, data.type, data.record], [[id], 'INSERT', { id: 11, name: 'eleven' }])
  })

  test('hears clients of supabase-js that speak text, and is heard by all of them', async () => {
    const old = connect(newest, walcast, undefined, { vsn: '1.0.0' })
    const application = await subscribe(old, 'shared', [])
    const binary = await subscribe(connect(newest, walcast), 'shared', [])
    const { channel, heard } = await join(open(), 'realtime:shared')
    channel.push('broadcast', note({ from: 'phoenix' }))
    assert.deepEqual(await application.broadcasts.next(), note({ from: 'phoenix' }))
    assert.deepEqual(await binary.broadcasts.next(), note({ from: 'phoenix' }))
    await application.channel.send(note({ from: 'supabase-js' }))
    assert.deepEqual((await heard.next()).payload, note({ from: 'supabase-js' }))
  })

  test('hears every supabase-js when its socket is given a decoder of user broadcasts', async () => {
    const application = await subscribe(connect(newest, walcast), 'decoded', [])
    const socket = open({ decode: decodeUserBroadcasts })
    const { heard } = await join(socket, 'realtime:decoded')
    await application.channel.send(note({ from: 'supabase-js' }))
    assert.deepEqual((await heard.next()).payload, note({ from: 'supabase-js' }))
  })
})

describe('a private channel', () => {
  const MEMBER = { reads: true, writes: true }
  const ACK = { broadcast: { ack: true } }
  // How long a sender waits for an answer that never comes.
  const UNANSWERED_MS = 300
  const enter = (user, topic, config, claims) =>
    join(open({ decode: decodeUserBroadcasts }), `realtime:${topic}`, { private: true, ...config }, ['broadcast', 'system'], {
      access_token: walcast.userToken(user, claims),
    })
  const closing = (channel, message) => ({
    event: 'system',
    payload: { extension: 'system', status: 'error', message, channel },
  })

  test('is for those who may read, and heard from those who may write', async () => {
    await allow(walcast, ADA, 'lecture', MEMBER)
    await allow(walcast, BEN, 'lecture', { reads: true })
    const [ada, ben] = [await enter(ADA, 'lecture', ACK), await enter(BEN, 'lecture', ACK)]
    const denied = await answered(ben.channel.push('broadcast', note({ from: 'Ben' }), UNANSWERED_MS))
    assert.equal(denied.status, 'timeout')
    assert.deepEqual(await answered(ada.channel.push('broadcast', note({ from: 'Ada' }))), { status: 'ok', response: {} })
    assert.deepEqual(await ben.heard.next(), { event: 'broadcast', payload: note({ from: 'Ada' }) })
    assert.equal(ada.heard.size, 0)

    // The socket's key is that of anybody.
    const stranger = open().channel('realtime:lecture', { config: { private: true } })
    assert.deepEqual(await answered(stranger.join()), {
      status: 'error',
      response: { reason: 'Unauthorized: You do not have permissions to read from this Channel topic: lecture' },
    })
    stranger.leave()
  })

  test('gets what was kept before, and then what the database sends', async () => {
    await allow(walcast, ADA, 'archive', MEMBER)
    const send = (id) => walcast.sql(`select realtime.send($1, 'note', 'archive')`, [{ id }])
    const witness = await enter(ADA, 'archive', { broadcast: { replication_ready: true } })
    assert.equal((await witness.heard.next()).payload.message, 'Replication connection established')
    await send('first')
    const { payload: first } = await witness.heard.next()
    assert.deepEqual(first, { ...note({ id: 'first' }), meta: first.meta })

    const replay = { since: Date.now() - 60_000, limit: 10 }
    const late = await enter(ADA, 'archive', { broadcast: { replay } })
    const { payload: replayed } = await late.heard.next()
    assert.deepEqual(replayed, { ...note({ id: 'first' }), meta: { replayed: true, id: first.meta.id } })
    await send('second')
    const { payload: second } = await late.heard.next()
    assert.deepEqual(second, { ...note({ id: 'second' }), meta: second.meta })
    assert.deepEqual(Object.keys(second.meta), ['id'])
  })

  test('goes by the last token that it was sent', async () => {
    await allow(walcast, ADA, 'refreshed', MEMBER)
    await allow(walcast, BEN, 'refreshed', { reads: true })
    const [ada, ben] = [await enter(ADA, 'refreshed'), await enter(BEN, 'refreshed', ACK)]
    const renew = (claims) => ben.channel.push('access_token', { access_token: walcast.userToken(BEN, claims) })
    assert.equal((await answered(ben.channel.push('broadcast', note({ n: 1 }), UNANSWERED_MS))).status, 'timeout')

    await allow(walcast, BEN, 'refreshed', MEMBER)
    renew({ fresh: 1 })
    assert.equal((await answered(ben.channel.push('broadcast', note({ n: 2 })))).status, 'ok')
    assert.deepEqual((await ada.heard.next()).payload, note({ n: 2 }))

    await allow(walcast, BEN, 'refreshed', {})
    renew({ fresh: 2 })
    const message = 'You do not have permissions to read from this Channel topic: refreshed'
    assert.deepEqual(await ben.heard.next(), closing('refreshed', message))
    await ben.closed
    ada.channel.push('broadcast', note({ n: 3 }))
    assert.equal(ben.heard.size, 0)
  })

  test('is closed when its token expires, unless it has a new one', async () => {
    await allow(walcast, ADA, 'short', MEMBER)
    await allow(walcast, BEN, 'short', MEMBER)
    const soon = { exp: Math.floor(Date.now() / 1000) + 3 }
    const [ada, ben] = [await enter(ADA, 'short', ACK, soon), await enter(BEN, 'short', {}, soon)]
    ada.channel.push('access_token', { access_token: walcast.userToken(ADA) })
    const { payload } = await ben.heard.until(({ payload }) => payload.status === 'error')
    assert.match(payload.message, /^Token has expired [01] seconds ago$/)
    await ben.closed
    assert.equal((await answered(ada.channel.push('broadcast', note({})))).status, 'ok')
  })
})

describe('what cannot be', () => {
  test('a topic outside of realtime: is unmatched', async () => {
    const channel = open().channel('room:1', { config: {} })
    assert.deepEqual(await answered(channel.join()), { status: 'error', response: { reason: 'unmatched topic' } })
  })

  test('a topic without a name is refused', async () => {
    const channel = open().channel('realtime:', { config: {} })
    assert.deepEqual(await answered(channel.join()), {
      status: 'error',
      response: { reason: 'TopicNameRequired: You must provide a topic name' },
    })
  })

  for (const [name, token, reason] of [
    ['is none', () => 'none', /^MalformedJWT: The token provided is not a valid JWT$/],
    ['has expired', () => walcast.userToken('u', { exp: 1 }), /^InvalidJWTToken: Token has expired \d+ seconds ago$/],
    [
      'someone else signed',
      () => `${walcast.userToken('u').slice(0, -5)}wrong`,
      /^JwtSignatureError: Failed to validate JWT signature$/,
    ],
  ]) {
    test(`a token that ${name} is refused, and the socket goes on`, async () => {
      const socket = open()
      const channel = socket.channel('realtime:token', { config: {}, access_token: token() })
      const { status, response } = await answered(channel.join())
      assert.equal(status, 'error')
      assert.match(response.reason, reason)
      channel.leave()
      await join(socket, 'realtime:other')
    })
  }

  test('a channel whose new token is none is told why and closed, and its topic is unmatched then', async () => {
    const socket = open()
    const { channel, heard, closed } = await join(socket, 'realtime:closed', {}, ['system'])
    channel.push('access_token', { access_token: 'none' })
    const payload = {
      extension: 'system',
      status: 'error',
      message: 'The token provided is not a valid JWT',
      channel: 'closed',
    }
    assert.deepEqual(await heard.next(), { event: 'system', payload })
    await closed
    const replies = new Inbox('reply')
    socket.onMessage((reply) => replies.push(reply))
    const ref = socket.makeRef()
    socket.push({ topic: 'realtime:closed', event: 'broadcast', payload: note({}), ref, join_ref: null })
    assert.deepEqual(await replies.next(), {
      join_ref: null,
      ref,
      topic: 'realtime:closed',
      event: 'phx_reply',
      payload: { status: 'error', response: { reason: 'unmatched topic' } },
    })
  })
})

/**
 * What the client lacks: user broadcasts, which the server sends for those of newer clients and of the database. Kind 4,
 * three lengths, whether the payload is JSON; then topic, event, metadata and payload.
 */
function decodeUserBroadcasts(frame, deliver) {
  if (typeof frame === 'string') {
    const [join_ref, ref, topic, event, payload] = JSON.parse(frame)
    return deliver({ join_ref, ref, topic, event, payload })
  }
  const [kind, topic_bytes, event_bytes, metadata_bytes, is_json] = new Uint8Array(frame)
  assert.deepEqual([kind, is_json], [4, 1])
  let at = 5
  const text = (bytes) => new TextDecoder().decode(frame.slice(at, (at += bytes)))
  const [topic, event, metadata] = [text(topic_bytes), text(event_bytes), text(metadata_bytes)]
  const payload = { type: 'broadcast', event, payload: JSON.parse(text(frame.byteLength - at)) }
  if (metadata) payload.meta = JSON.parse(metadata)
  return deliver({ join_ref: null, ref: null, topic, event: 'broadcast', payload })
}
