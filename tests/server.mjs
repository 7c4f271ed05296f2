// A server for tests of what does not depend on how many nodes there are: one, or with WALCAST_TEST_NODES=3 three, which
// clients are spread over.

import { Nodes } from './nodes.mjs'
import { Walcast } from './walcast.mjs'

export async function startServer() {
  const count = Number(process.env.WALCAST_TEST_NODES || 1)
  if (count === 1) return Walcast.start()
  const nodes = await Nodes.start(count)
  let turn = 0
  return Object.create(nodes.walcast, {
    // Of another node for each client.
    url: { get: () => nodes.all[(turn += 1) % count].url },
    stop: { value: () => nodes.stop() },
  })
}
