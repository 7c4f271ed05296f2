// Private channels: the policies of realtime.messages decide who reads and who writes, with every token anew.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, newestOn1, old, signIn, subscribe } from './clients.mjs'
import { ADA, allow as allowIn, BEN, build, enter as enterIn, refusal } from './rooms.mjs'
import { startServer } from './server.mjs'

const MEMBER = { reads: true, writes: true }
// How long a sender waits for an answer that never comes.
const UNANSWERED_MS = 300

let walcast
before(async () => {
  walcast = await startServer()
  await build(walcast)
  await walcast.sql(`
    create table public.orders (id int primary key, customer int, state text);
    create function public.tell_customer() returns trigger language plpgsql security definer as $$
    begin
      perform realtime.broadcast_changes(
        'orders:' || coalesce(new.customer, old.customer), tg_op, tg_op, tg_table_name, tg_table_schema, new, old
      );
      return null;
    end $$;
    create trigger tell_customer after insert or update or delete on public.orders
      for each row execute function public.tell_customer();
  `)
})
after(() => walcast.stop())

const allow = (user, topic, rights) => allowIn(walcast, user, topic, rights)
const enter = (kind, user, topic, config) => enterIn(kind, walcast, user, topic, config)
const note = (payload) => ({ type: 'broadcast', event: 'note', payload })
const nowS = () => Math.floor(Date.now() / 1000)
const unreadable = (topic) => `Unauthorized: You do not have permissions to read from this Channel topic: ${topic}`

for (const kind of [...kinds, newestOn1]) {
  describe(kind.name, () => {
    before(() => walcast.sql('truncate public.members'))

    test('members hear each other', async () => {
      await allow(ADA, 'room', MEMBER)
      await allow(BEN, 'room', MEMBER)
      const [ada, ben] = [await enter(kind, ADA, 'room'), await enter(kind, BEN, 'room')]
      await ada.channel.send(note({ from: 'Ada' }))
      assert.deepEqual(await ben.broadcasts.next(), note({ from: 'Ada' }))
      await ben.channel.send(note({ from: 'Ben' }))
      assert.deepEqual(await ada.broadcasts.next(), note({ from: 'Ben' }))
    })

    test('who may not read is refused, and told so', async () => {
      await allow(ADA, 'closed', MEMBER)
      await allow(BEN, 'closed', { writes: true })
      const ben = await signIn(kind, walcast, walcast.userToken(BEN))
      assert.equal(await refusal(ben, 'closed', { private: true }), unreadable('closed'))
      assert.equal(await refusal(connect(kind, walcast), 'closed', { private: true }), unreadable('closed'))
      // The refusal costs nobody anything: not the client either.
      await allow(BEN, 'open', MEMBER)
      await subscribe(ben, 'open', [], { private: true })
    })

    test('who may only read is not relayed, nor answered', async () => {
      await allow(ADA, 'lecture', MEMBER)
      await allow(BEN, 'lecture', { reads: true })
      const ada = await enter(kind, ADA, 'lecture')
      const ben = await enter(kind, BEN, 'lecture', { broadcast: { ack: true } })
      assert.equal(await ben.channel.send(note({ from: 'Ben' }), { timeout: UNANSWERED_MS }), 'timed out')
      const third = await enter(kind, ADA, 'lecture')
      await third.channel.send(note({ from: 'Ada' }))
      assert.deepEqual(await ada.broadcasts.next(), note({ from: 'Ada' }))
      assert.deepEqual(await ben.broadcasts.next(), note({ from: 'Ada' }))
    })

    test('a role that row security does not bind reads and writes everywhere', async () => {
      const config = { private: true, broadcast: { ack: true, self: true } }
      const service = await subscribe(await signIn(kind, walcast, walcast.service_key), 'anywhere', [], config)
      assert.equal(await service.channel.send(note({ n: 1 })), 'ok')
      assert.deepEqual(await service.broadcasts.next(), note({ n: 1 }))
    })

    test('a public and a private channel of one name never mix', async () => {
      await allow(ADA, 'twofold', MEMBER)
      const [inside, insider] = [await enter(kind, ADA, 'twofold'), await enter(kind, ADA, 'twofold')]
      const outside = await subscribe(connect(kind, walcast), 'twofold', [])
      const outsider = await subscribe(connect(kind, walcast), 'twofold', [])
      await insider.channel.send(note({ from: 'inside' }))
      await outsider.channel.send(note({ from: 'outside' }))
      assert.deepEqual(await inside.broadcasts.next(), note({ from: 'inside' }))
      assert.deepEqual(await outside.broadcasts.next(), note({ from: 'outside' }))
      await outsider.channel.send(note({ from: 'outside again' }))
      await insider.channel.send(note({ from: 'inside again' }))
      assert.deepEqual(await inside.broadcasts.next(), note({ from: 'inside again' }))
      assert.deepEqual(await outside.broadcasts.next(), note({ from: 'outside again' }))
    })

    test('a new token brings the right to write without a new join', async () => {
      await allow(ADA, 'gain', MEMBER)
      await allow(BEN, 'gain', { reads: true })
      const ada = await enter(kind, ADA, 'gain')
      const client = await signIn(kind, walcast, walcast.userToken(BEN))
      const ben = await subscribe(client, 'gain', [], { private: true, broadcast: { ack: true } })
      assert.equal(await ben.channel.send(note({ n: 1 }), { timeout: UNANSWERED_MS }), 'timed out')
      await allow(BEN, 'gain', MEMBER)
      await client.realtime.setAuth(walcast.userToken(BEN, { fresh: true }))
      assert.equal(await ben.channel.send(note({ n: 2 })), 'ok')
      assert.deepEqual(await ada.broadcasts.next(), note({ n: 2 }))
    })

    test('a new token takes the right to write without a new join', async () => {
      await allow(BEN, 'lose', MEMBER)
      const client = await signIn(kind, walcast, walcast.userToken(BEN))
      const ben = await subscribe(client, 'lose', [], { private: true, broadcast: { ack: true } })
      assert.equal(await ben.channel.send(note({ n: 1 })), 'ok')
      await allow(BEN, 'lose', { reads: true })
      // What was found out with a token is good as long as it is used.
      assert.equal(await ben.channel.send(note({ n: 2 })), 'ok')
      await client.realtime.setAuth(walcast.userToken(BEN, { fresh: true }))
      assert.equal(await ben.channel.send(note({ n: 3 }), { timeout: UNANSWERED_MS }), 'timed out')
      assert.equal(ben.channel.state, 'joined')
    })

    test('a new token without the right to read closes the channel, and it hears nothing more', async () => {
      await allow(ADA, 'expelled', MEMBER)
      await allow(BEN, 'expelled', MEMBER)
      const ada = await enter(kind, ADA, 'expelled', { broadcast: { ack: true } })
      const client = await signIn(kind, walcast, walcast.userToken(BEN))
      const ben = await subscribe(client, 'expelled', [], { private: true })
      const elsewhere = await subscribe(client, 'elsewhere', [])
      await allow(BEN, 'expelled', {})
      await client.realtime.setAuth(walcast.userToken(BEN, { fresh: true }))
      assert.deepEqual(await ben.systems.next(), {
        extension: 'system',
        status: 'error',
        message: 'You do not have permissions to read from this Channel topic: expelled',
        channel: 'expelled',
      })
      await ben.statuses.until(({ status }) => status === 'CLOSED')
      await ada.channel.send(note({ n: 1 }))
      assert.equal(ben.broadcasts.size, 0)
      assert.equal(elsewhere.channel.state, 'joined')
      assert.equal(await refusal(client, 'expelled', { private: true }), unreadable('expelled'))
    })

    test('a token is good until it expires; a channel that gets a new one in time goes on', async () => {
      await allow(ADA, 'short', MEMBER)
      await allow(BEN, 'short', MEMBER)
      const short = (user) => walcast.userToken(user, { exp: nowS() + 3 })
      const session = { token: short(ADA) }
      const refreshing = connect(kind, walcast, session, { heartbeatIntervalMs: 500 })
      await refreshing.realtime.setAuth()
      const config = { private: true, broadcast: { ack: true } }
      const ada = await subscribe(refreshing, 'short', [], config)
      // The client asks for it with its next heartbeat.
      session.token = walcast.userToken(ADA)

      const ben = await subscribe(await signIn(kind, walcast, short(BEN)), 'short', [], config)
      const { message, ...rest } = await ben.systems.until(({ status }) => status === 'error')
      assert.match(message, /^Token has expired [01] seconds ago$/)
      assert.deepEqual(rest, { extension: 'system', status: 'error', channel: 'short' })
      await ben.statuses.until(({ status }) => status === 'CLOSED')

      assert.equal(ada.channel.state, 'joined')
      assert.equal(await ada.channel.send(note({ n: 1 })), 'ok')
      assert.equal(ben.broadcasts.size, 0)
    })

    test('the right to read broadcasts comes and goes while that to see who is present stays', async () => {
      await allow(ADA, 'partial', MEMBER)
      await allow(BEN, 'partial', { writes: true })
      await allow(BEN, 'partial', { extension: 'presence', reads: true })
      const ada = await enter(kind, ADA, 'partial', { broadcast: { ack: true } })
      const client = await signIn(kind, walcast, walcast.userToken(BEN))
      const config = { private: true, broadcast: { ack: true }, presence: { key: '', enabled: true } }
      const ben = await subscribe(client, 'partial', [], config)
      assert.equal(await ada.channel.send(note({ n: 1 })), 'ok')
      assert.equal(await ben.channel.send(note({ n: 2 })), 'ok')
      assert.deepEqual(await ada.broadcasts.next(), note({ n: 2 }))

      await allow(BEN, 'partial', MEMBER)
      await client.realtime.setAuth(walcast.userToken(BEN, { fresh: 1 }))
      // The answer comes when the new token is in use.
      assert.equal(await ben.channel.send(note({ n: 3 })), 'ok')
      assert.equal(await ada.channel.send(note({ n: 4 })), 'ok')
      assert.deepEqual(await ben.broadcasts.next(), note({ n: 4 }))

      await allow(BEN, 'partial', { writes: true })
      await client.realtime.setAuth(walcast.userToken(BEN, { fresh: 2 }))
      const { message } = await ben.systems.until(({ status }) => status === 'error')
      assert.equal(message, 'You no longer have permission to read from this Channel topic: partial')
      await ben.statuses.until(({ status }) => status === 'CLOSED')
    })

    test('what the database sends privately only private channels hear', async () => {
      await allow(ADA, 'vault', MEMBER)
      const outside = await subscribe(connect(kind, walcast), 'vault', [])
      const inside = await enter(kind, ADA, 'vault', { broadcast: { replication_ready: true } })
      await inside.systems.until(({ message }) => message === 'Replication connection established')
      await walcast.sql(`select realtime.send('{"id": 1}', 'note', 'vault')`)
      await walcast.sql(`select realtime.send('{"id": 2}', 'note', 'vault', false)`)
      await walcast.sql(`select realtime.send('{"id": 3}', 'note', 'vault', true)`)
      const payloads = [(await inside.broadcasts.next()).payload, (await inside.broadcasts.next()).payload]
      assert.deepEqual(payloads, [{ id: 1 }, { id: 3 }])
      assert.deepEqual((await outside.broadcasts.next()).payload, { id: 2 })
      assert.equal(outside.broadcasts.size, 0)
    })

    test('a trigger broadcasts the changes of a table to the channel of each row', async () => {
      const topic = 'orders:7'
      await allow(ADA, topic, { reads: true })
      const heard = await enter(kind, ADA, topic, { broadcast: { replication_ready: true } })
      await heard.systems.until(({ message }) => message === 'Replication connection established')
      await walcast.sql(`insert into public.orders values (1, 7, 'new'), (2, 8, 'elsewhere')`)
      await walcast.sql(`update public.orders set state = 'paid' where id = 1`)
      await walcast.sql('delete from public.orders')
      const [fresh, paid] = ['new', 'paid'].map((state) => ({ id: 1, customer: 7, state }))
      for (const [operation, record, old_record] of [
        ['INSERT', fresh, null],
        ['UPDATE', paid, fresh],
        ['DELETE', null, paid],
      ]) {
        const { event, payload, meta } = await heard.broadcasts.next()
        assert.equal(event, operation)
        const { id, ...change } = payload
        assert.equal(meta.id, id)
        assert.deepEqual(change, { operation, schema: 'public', table: 'orders', record, old_record })
      }
    })

    const refusals = [
      ['is none', () => 'none', /^MalformedJWT: The token provided is not a valid JWT$/],
      [
        'someone else signed',
        () => `${walcast.userToken(ADA).slice(0, -5)}wrong`,
        /^JwtSignatureError: Failed to validate JWT signature$/,
      ],
      [
        'has no role',
        () => walcast.sign({ exp: nowS() + 60 }),
        /^InvalidJWTToken: Fields `role` and `exp` are required in JWT$/,
      ],
      [
        'has a role that the database does not know',
        () => walcast.userToken(ADA, { role: 'nobody_knows' }),
        /^Unauthorized: You do not have permissions to read from this Channel topic: tokens$/,
      ],
    ]
    // The older client never sends such a token.
    if (kind !== old) {
      const expired = () => walcast.userToken(ADA, { exp: 1 })
      refusals.push(['has expired', expired, /^InvalidJWTToken: Token has expired \d+ seconds ago$/])
    }
    for (const [name, token, reason] of refusals) {
      test(`a join with a token that ${name} is refused with the reason`, async () => {
        await allow(ADA, 'tokens', MEMBER)
        const client = await signIn(kind, walcast, token())
        assert.match(await refusal(client, 'tokens', { private: true }), reason)
      })
    }
  })
}
