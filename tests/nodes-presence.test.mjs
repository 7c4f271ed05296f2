// Who is present, with clients on several nodes, one of which is killed.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds } from './clients.mjs'
import { Nodes, redisProgram } from './nodes.mjs'

const skip = redisProgram ? false : 'neither redis-server nor valkey-server is installed'
const LIMIT_MS = 10_000

/** A channel with presence, what it holds to be present, and which leaves it was told. */
class Member {
  #wake = () => {}
  leaves = []

  static async join(kind, node, topic, key) {
    const member = new Member()
    member.client = connect(kind, node)
    member.channel = member.client.channel(topic, { config: { presence: { key } } })
    member.channel.on('presence', { event: 'leave' }, ({ key }) => member.leaves.push(key))
    const told = new Promise((resolve) => {
      member.channel.on('presence', { event: 'sync' }, () => {
        resolve()
        member.#wake()
      })
    })
    await new Promise((resolve, reject) =>
      member.channel.subscribe((status, error) => (status === 'SUBSCRIBED' ? resolve() : reject(error ?? status))),
    )
    await told
    return member
  }

  present() {
    const metas = Object.entries(this.channel.presenceState())
    return Object.fromEntries(metas.map(([key, metas]) => [key, metas.map(({ n }) => n).sort()]).sort())
  }

  /** Waits until exactly these are present. */
  async sees(expected) {
    const limit = AbortSignal.timeout(LIMIT_MS)
    const wanted = JSON.stringify(expected)
    while (JSON.stringify(this.present()) !== wanted) {
      await new Promise((resolve, reject) => {
        this.#wake = resolve
        limit.onabort = () => reject(new Error(`${JSON.stringify(this.present())} is present and not ${wanted}`))
      })
    }
  }
}

describe('presence on three nodes', { skip }, () => {
  let nodes
  before(async () => (nodes = await Nodes.start(3, { WALCAST_NODE_BEAT_MS: '500', WALCAST_NODE_EXPIRY_MS: '2000' })))
  after(() => nodes?.stop())

  test('when a node is killed its members leave everywhere, once, and those who come are seen by all', async () => {
    const members = []
    for (const [at, node] of nodes.all.entries()) {
      for (const kind of kinds) members.push(await Member.join(kind, node, 'room', `node ${at}`))
    }
    await Promise.all(members.map(({ channel }, n) => channel.track({ n })))
    const per_node = kinds.length
    const of = (at) => Array.from({ length: per_node }, (_, n) => at * per_node + n).sort()
    const everybody = { 'node 0': of(0), 'node 1': of(1), 'node 2': of(2) }
    await Promise.all(members.map((member) => member.sees(everybody)))

    const lost = members.splice(per_node, per_node)
    await nodes.all.splice(1, 1)[0].stop('SIGKILL')
    for (const { client } of lost) client.realtime.disconnect()
    const { 'node 1': _, ...left } = everybody
    await Promise.all(members.map((member) => member.sees(left)))
    for (const { leaves } of members) assert.deepEqual(leaves, ['node 1'])

    const node = await nodes.add()
    const fresh = await Member.join(kinds[0], node, 'room', 'fresh')
    await fresh.sees(left)
    await fresh.channel.track({ n: -1 })
    await Promise.all([fresh, ...members].map((member) => member.sees({ fresh: [-1], ...left })))
    for (const { leaves } of members) assert.deepEqual(leaves, ['node 1'])
  })
})
