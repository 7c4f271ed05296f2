// What a private channel misses while it is away, on one node and on several.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { kinds, newest, newestOn1, signIn } from './clients.mjs'
import { Inbox } from './inbox.mjs'
import { Node, Nodes, redisProgram } from './nodes.mjs'
import { Walcast } from './walcast.mjs'

const window = { WALCAST_BROADCAST_WINDOW_MS: '60000' }
const skip = redisProgram ? false : 'neither redis-server nor valkey-server is installed'

const everybodyMay = `create policy all_may on realtime.messages to authenticated using (true) with check (true)`
const note = (n) => ({ type: 'broadcast', event: 'note', payload: { n } })
const position = (message) => message.meta?.position ?? message.position
const isReplayed = (message) => message.meta?.replayed ?? message.replayed ?? false

/** A channel as an application keeps it that wants to miss nothing: `options` are sent with every join. */
async function follow(client, topic, options = {}) {
  const heard = { messages: new Inbox('message'), systems: new Inbox('system'), statuses: new Inbox('status'), options }
  heard.channel = client.channel(topic, { config: { private: true, broadcast: options } })
  heard.channel
    .on('broadcast', { event: '*' }, (message) => {
      options.since = position(message)
      heard.messages.push(message)
    })
    .on('system', {}, (message) => heard.systems.push(message))
    .subscribe((status) => heard.statuses.push(status))
  await heard.statuses.until((status) => status === 'SUBSCRIBED')
  return heard
}

/** The next messages in short, as many as are expected. */
async function told({ messages }, count) {
  const seen = []
  for (let i = 0; i < count; i += 1) {
    const message = await messages.next()
    seen.push([message.payload.n, isReplayed(message)])
  }
  return seen
}

/** Closes the socket beneath a client, which then connects anew by itself. */
async function lose(client) {
  const socket = client.realtime.conn ?? client.realtime.socketAdapter.socket.conn
  const lost = new Promise((resolve) => socket.addEventListener('close', resolve, { once: true }))
  socket.close(4000, 'lost')
  await lost
}

describe('one node', () => {
  let walcast, node
  before(async () => {
    walcast = await Walcast.start()
    node = await Node.start(walcast, undefined, window)
    await walcast.sql(everybodyMay)
  })
  after(async () => {
    await node?.stop()
    await walcast.stop()
  })

  for (const kind of [...kinds, newestOn1]) {
    test(`${kind.name}: a channel that follows what it hears misses nothing when its socket is lost`, async () => {
      const topic = randomUUID()
      const token = walcast.userToken(randomUUID())
      const client = await signIn(kind, node, token)
      const listener = await follow(client, topic, { ack: true, sender: randomUUID() })
      const speaker = await follow(await signIn(newest, node, token), topic, { ack: true })
      assert.equal(await speaker.channel.send(note(1)), 'ok')
      assert.deepEqual(await told(listener, 1), [[1, false]])
      assert.equal(await listener.channel.send(note(2)), 'ok')
      await lose(client)
      assert.equal(await speaker.channel.send(note(3)), 'ok')
      await walcast.sql(`select realtime.send('{"n": 4}', 'note', $1, true)`, [topic])
      assert.deepEqual((await told(speaker, 2)).map(([n]) => n), [2, 4])
      await listener.statuses.until((status) => status === 'SUBSCRIBED')
      assert.equal(await speaker.channel.send(note(5)), 'ok')
      // Its own is not told again.
      assert.deepEqual(
        (await told(listener, 3)).map(([n]) => n),
        [3, 4, 5],
      )
      assert.equal(listener.systems.size, 0)
    })
  }
})

describe('three nodes', { skip }, () => {
  let nodes
  before(async () => {
    // With a temporary slot, the end of the node that reads the log is a hole in what is kept.
    nodes = await Nodes.start(3, { ...window, WALCAST_SLOT: 'permanent' })
    await nodes.walcast.sql(everybodyMay)
  })
  after(() => nodes?.stop())

  test('a client whose node goes away is told by another what it missed', async () => {
    const topic = randomUUID()
    const token = nodes.walcast.userToken(randomUUID())
    const [dying, first, second] = nodes.all
    const on = (node) => signIn(newest, node, token)
    const listener = await follow(await on(dying), topic)
    const speaker = await follow(await on(first), topic, { ack: true })
    assert.equal(await speaker.channel.send(note(1)), 'ok')
    assert.deepEqual(await told(listener, 1), [[1, false]])
    await dying.stop('SIGKILL')
    assert.equal(await speaker.channel.send(note(2)), 'ok')
    // Another node reads the log first, if this one did.
    await nodes.walcast.sql(`select realtime.send('{"n": 3}', 'note', $1, true)`, [topic])
    assert.deepEqual(await told(speaker, 1), [[3, false]])
    const back = await follow(await on(second), topic, { since: listener.options.since })
    assert.deepEqual(await told(back, 2), [
      [2, true],
      [3, true],
    ])
    assert.equal(await speaker.channel.send(note(4)), 'ok')
    assert.deepEqual(await told(back, 1), [[4, false]])
    assert.equal(back.systems.size, 0)
  })
})
