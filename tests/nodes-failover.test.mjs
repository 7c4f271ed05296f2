// The node that reads the log for all is killed: applications that follow what they hear miss nothing.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, connect as dial } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { connect, kinds } from './clients.mjs'
import { Inbox } from './inbox.mjs'
import { Nodes, redisProgram } from './nodes.mjs'

const skip = redisProgram ? false : 'neither redis-server nor valkey-server is installed'
const FAILOVER_LIMIT_MS = 20_000

/** A load balancer of one address: each new connection goes to `node`. */
class Balancer {
  static async start(nodes, node) {
    const balancer = new Balancer()
    balancer.node = node
    balancer.server = createServer((client) => {
      const server = dial(balancer.node.port, '127.0.0.1')
      client.pipe(server).pipe(client)
      for (const [one, other] of [
        [client, server],
        [server, client],
      ]) {
        one.on('error', () => other.destroy())
        one.on('close', () => other.destroy())
      }
    }).listen(0, '127.0.0.1')
    await once(balancer.server, 'listening')
    const { port } = balancer.server.address()
    return Object.assign(balancer, { url: `http://127.0.0.1:${port}`, anon_key: nodes.walcast.anon_key })
  }
}

/** A channel whose binding follows what it hears. */
async function follow(client) {
  const heard = { changes: new Inbox('change'), systems: new Inbox('system message'), statuses: new Inbox('status') }
  const binding = { event: 'INSERT', schema: 'public', table: 'orders' }
  client
    .channel('orders')
    .on('postgres_changes', binding, (change) => {
      binding.since = change.commit_timestamp
      heard.changes.push(change)
    })
    .on('system', {}, (message) => heard.systems.push(message))
    .subscribe((status) => heard.statuses.push(status))
  await heard.statuses.until((status) => status === 'SUBSCRIBED')
  return heard
}

/** Which node reads the log for all. */
async function holder(nodes) {
  for (const node of nodes.all) {
    const figures = await (await fetch(`${node.url}/metrics`)).text()
    if (/^walcast_slot_holder(\{.*\})? 1$/m.test(figures)) return node
  }
  throw new Error('no node reads the log')
}

for (const kind of kinds) {
  describe(`${kind.name} on three nodes with a permanent slot`, { skip }, () => {
    let nodes
    before(async () => {
      nodes = await Nodes.start(3, { WALCAST_SLOT: 'permanent' })
      await nodes.walcast.sql(`
        create table public.orders (id int primary key);
        grant select on public.orders to anon;
        alter publication supabase_realtime add table public.orders`)
    })
    after(() => nodes?.stop())

    test('when the node that reads the log is killed, a client of it and one of another miss no row', async () => {
      const killed = await holder(nodes)
      const [other, spare] = nodes.all.filter((node) => node !== killed)
      const balancer = await Balancer.start(nodes, killed)
      const moving = await follow(connect(kind, balancer))
      const staying = await follow(connect(kind, other))
      // A client of the third has it keep the table's changes for who comes.
      await follow(connect(kind, spare))
      let id = 0
      const insert = async (count) => {
        for (const end = id + count; id < end; ) await nodes.walcast.sql('insert into public.orders values ($1)', [(id += 1)])
      }
      const heard = [moving, staying].map((listener) => ({ ...listener, rows: [] }))
      // Who comes back is told again what was committed in the millisecond of its last change.
      const hear = async ({ changes, rows }) => {
        while (rows.at(-1) !== id) {
          const row = (await changes.next(FAILOVER_LIMIT_MS)).new.id
          if (!rows.includes(row)) rows.push(row)
        }
      }
      await insert(1)
      // From here on each has a place to come back with.
      await Promise.all(heard.map(hear))
      await insert(20)
      balancer.node = spare
      await killed.stop('SIGKILL')
      nodes.all.splice(nodes.all.indexOf(killed), 1)
      await insert(1)
      await moving.statuses.until((status) => status === 'SUBSCRIBED', FAILOVER_LIMIT_MS)
      await insert(20)
      await Promise.all(heard.map(hear))
      for (const { rows, systems } of heard) {
        const all = Array.from({ length: id }, (_, n) => n + 1)
        assert.deepEqual(rows, all)
        while (systems.size > 0) assert.equal((await systems.next()).status, 'ok')
      }
      balancer.server.close()
    })
  })
}
