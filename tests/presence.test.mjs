// Who is present: what each client computes from the state and the diffs it is told is what is.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { Presence, Socket } from 'phoenix'
import ws from 'ws'
import { connect, kinds, newest, newestOn1, old, signIn } from './clients.mjs'
import { Inbox } from './inbox.mjs'
import { ADA, allow, BEN, build } from './rooms.mjs'
import { startServer } from './server.mjs'

const LIMIT_MS = 10_000

let walcast
before(async () => {
  walcast = await startServer()
  await build(walcast)
})
after(() => walcast.stop())

/** A member of a topic: what it holds to be present, and when that may have changed. */
class Member {
  #changed = []

  /** To be called when its state may have changed. */
  changed() {
    for (const wake of this.#changed.splice(0)) wake()
  }

  /** Waits until what it holds to be present passes. */
  async until(passes, what) {
    const limit = AbortSignal.timeout(LIMIT_MS)
    while (!passes(this.present())) {
      await new Promise((resolve, reject) => {
        const give_up = () => reject(new Error(`never ${what}; present is ${JSON.stringify(this.present())}`))
        limit.addEventListener('abort', give_up)
        this.#changed.push(() => {
          limit.removeEventListener('abort', give_up)
          resolve()
        })
      })
    }
  }

  untilPresent(expected) {
    return this.until((present) => same(present, expected), `present is ${JSON.stringify(expected)}`)
  }
}

/** With supabase-js. */
class SupabaseMember extends Member {
  static async join(kind, topic, key, config = {}, client = connect(kind, walcast)) {
    const member = new SupabaseMember()
    member.client = client
    member.events = new Inbox(`presence event on ${topic}`)
    member.channel = client.channel(topic, { config: { presence: { key }, ...config } })
    for (const event of ['join', 'leave']) {
      member.channel.on('presence', { event }, (told) => member.events.push(told))
    }
    member.channel.on('presence', { event: 'sync' }, () => member.changed())
    const told = new Promise((resolve) => member.channel.on('presence', { event: 'sync' }, resolve))
    await new Promise((resolve, reject) =>
      member.channel.subscribe((status, error) => {
        if (status === 'SUBSCRIBED') resolve()
        else reject(error ?? new Error(status))
      }),
    )
    await told
    return member
  }

  present() {
    return stripped(Object.entries(this.channel.presenceState()), 'presence_ref')
  }

  track(payload) {
    return this.channel.track(payload)
  }

  untrack() {
    return this.channel.untrack()
  }

  leave() {
    return this.client.removeChannel(this.channel)
  }

  close() {
    this.client.realtime.disconnect()
  }
}

/** With Phoenix' own client and its class Presence. */
class PhoenixMember extends Member {
  static async join(topic, key) {
    const member = new PhoenixMember()
    const address = `${walcast.url.replace(/^http/, 'ws')}/socket`
    member.socket = new Socket(address, { params: { apikey: walcast.anon_key }, transport: ws })
    opened.push(member.socket)
    member.socket.connect()
    member.channel = member.socket.channel(`realtime:${topic}`, { config: { presence: { key, enabled: true } } })
    member.presence = new Presence(member.channel)
    const told = new Promise((resolve) =>
      member.presence.onSync(() => {
        resolve()
        member.changed()
      }),
    )
    await answered(member.channel.join())
    await told
    return member
  }

  present() {
    const metas = Object.entries(this.presence.state).map(([key, { metas }]) => [key, metas])
    return stripped(metas, 'phx_ref')
  }

  #call(event, payload) {
    return answered(this.channel.push('presence', { type: 'presence', event, payload }))
  }

  track(payload) {
    return this.#call('track', payload)
  }

  untrack() {
    return this.#call('untrack')
  }

  leave() {
    return answered(this.channel.leave())
  }

  close() {
    this.socket.disconnect()
  }
}

const opened = []
after(() => Promise.all(opened.map((socket) => new Promise((closed) => socket.disconnect(closed)))))

/** The answer to a push; fails unless that is `ok`. */
const answered = (push) =>
  new Promise((resolve, reject) =>
    push
      .receive('ok', () => resolve('ok'))
      .receive('error', (response) => reject(new Error(JSON.stringify(response))))
      .receive('timeout', () => reject(new Error('no answer'))),
  )

/** What is tracked, by key, without references, which must all be different; in an order of its own. */
function stripped(entries, reference) {
  const references = new Set()
  const present = {}
  let metas = 0
  for (const [key, tracked] of entries) {
    metas += tracked.length
    for (const meta of tracked) references.add(meta[reference])
    const payloads = tracked.map(({ [reference]: _own, phx_ref_prev: _before, ...payload }) => payload)
    present[key] = payloads.sort((one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1))
  }
  assert.equal(references.size, metas)
  return present
}

function same(one, other) {
  try {
    assert.deepEqual(one, other)
    return true
  } catch {
    return false
  }
}

for (const kind of [...kinds, newestOn1]) {
  describe(kind.name, () => {
    const join = (topic, key, config) => SupabaseMember.join(kind, `${topic} ${kind.name}`, key, config)

    test('everybody knows who comes, changes and goes, whenever they came themselves', async () => {
      const ada = await join('room', 'ada')
      assert.deepEqual(ada.present(), {})
      assert.equal(await ada.track({ mood: 'fine' }), 'ok')
      await ada.untilPresent({ ada: [{ mood: 'fine' }] })
      const ben = await join('room', 'ben')
      assert.deepEqual(ben.present(), { ada: [{ mood: 'fine' }] })
      await ben.track({ 'clé "quoted"\n': ['🐎', { deep: null }] })
      const both = { ada: [{ mood: 'fine' }], ben: [{ 'clé "quoted"\n': ['🐎', { deep: null }] }] }
      await Promise.all([ada.untilPresent(both), ben.untilPresent(both)])
      await ada.track({ mood: 'better' })
      await ben.untilPresent({ ...both, ada: [{ mood: 'better' }] })
      await ada.untrack()
      await ben.untilPresent({ ben: both.ben })
      await ben.leave()
      await ada.untilPresent({})
    })

    test('one user in several tabs is present until the last is closed', async () => {
      const witness = await join('tabs', 'witness')
      const [one, other] = [await join('tabs', 'ada'), await join('tabs', 'ada')]
      await one.track({ tab: 1 })
      await other.track({ tab: 2 })
      await witness.untilPresent({ ada: [{ tab: 1 }, { tab: 2 }] })
      one.close()
      await witness.untilPresent({ ada: [{ tab: 2 }] })
      await other.leave()
      await witness.untilPresent({})
    })

    test('joins and leaves are told with what was tracked', async () => {
      const witness = await join('events', 'witness')
      const ada = await join('events', 'ada')
      await ada.track({ n: 1 })
      const joined = await witness.events.next()
      assert.deepEqual([joined.event, joined.key, joined.currentPresences], ['join', 'ada', []])
      assert.equal(joined.newPresences[0].n, 1)
      await ada.leave()
      const left = await witness.events.next()
      assert.deepEqual([left.event, left.key, left.leftPresences], ['leave', 'ada', joined.newPresences])
    })

    test('without a key each channel has one of its own', async () => {
      const members = [await join('keyless', ''), await join('keyless', '')]
      for (const member of members) await member.track({})
      await members[0].until((present) => Object.keys(present).length === 2, 'two keys')
    })
  })
}

test('clients of all kinds in one topic agree', async () => {
  const members = [
    await SupabaseMember.join(newest, 'mixed', 'newest'),
    await SupabaseMember.join(newestOn1, 'mixed', 'on 1.0.0'),
    await SupabaseMember.join(old, 'mixed', 'old'),
    await PhoenixMember.join('mixed', 'phoenix'),
  ]
  await Promise.all(members.map((member, n) => member.track({ n })))
  const all = { newest: [{ n: 0 }], 'on 1.0.0': [{ n: 1 }], old: [{ n: 2 }], phoenix: [{ n: 3 }] }
  for (const member of members) await member.untilPresent(all)
})

describe('a private channel', () => {
  const enter = async (user, topic) =>
    SupabaseMember.join(newest, topic, user, { private: true }, await signIn(newest, walcast, walcast.userToken(user)))
  const rights = (user, topic, { reads = false, writes = false }) =>
    allow(walcast, user, topic, { extension: 'presence', reads, writes })

  test('tells who is present to those who may read that, and takes it from those who may write', async () => {
    await rights(ADA, 'club', { reads: true, writes: true })
    await rights(BEN, 'club', { reads: true })
    const [ada, ben] = [await enter(ADA, 'club'), await enter(BEN, 'club')]
    assert.equal(await ben.track({ n: 2 }), 'error')
    assert.equal(await ada.track({ n: 1 }), 'ok')
    for (const member of [ada, ben]) await member.untilPresent({ [ADA]: [{ n: 1 }] })
  })
})

/** Numbers that look random and are the same for the same seed. */
function* random(seed) {
  let state = seed
  for (;;) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    yield state / 2 ** 32
  }
}

/**
 * Members of all kinds come, track, untrack, leave and close as it happens; at quiet points each must know what is.
 */
async function live(seed) {
  const numbers = random(seed)
  const below = (limit) => Math.floor(numbers.next().value * limit)
  const topic = `random ${seed}`
  const keys = ['a', 'b', '__proto__ "c"']
  const comings = [
    (key) => SupabaseMember.join(newest, topic, key),
    (key) => SupabaseMember.join(newestOn1, topic, key),
    (key) => SupabaseMember.join(old, topic, key),
    (key) => PhoenixMember.join(topic, key),
  ]
  const fence = await comings[0]('fence')
  const here = [{ member: fence, key: 'fence' }]
  const leaving = []
  let fences = 0

  /** Does not wait for the answer, which never comes once the member has gone. */
  const call = (chosen, answer) => {
    answer.catch(() => {})
    chosen.under_way = [...(chosen.under_way ?? []), answer]
  }

  /** What is, by what was done. */
  const truth = () => {
    const tracked = here.filter(({ payload }) => payload).map(({ key, payload }) => [key, { payload }])
    const byKey = {}
    for (const [key, { payload }] of tracked) {
      if (!Object.hasOwn(byKey, key)) Object.defineProperty(byKey, key, { value: [], enumerable: true })
      byKey[key].push(payload)
    }
    for (const payloads of Object.values(byKey)) {
      payloads.sort((one, other) => (JSON.stringify(one) < JSON.stringify(other) ? -1 : 1))
    }
    return byKey
  }

  const quieten = async () => {
    await Promise.all(leaving)
    await Promise.all(here.flatMap(({ under_way }) => under_way ?? []))
    await Promise.all(here.map(({ member }) => member.untilPresent(truth())))
    // Whatever was still to be told comes before this.
    here[0].payload = { fence: (fences += 1) }
    await fence.track(here[0].payload)
    await Promise.all(
      here.map(async ({ member }) => {
        await member.until((present) => present.fence?.[0].fence === fences, `fence ${fences}`)
        assert.deepEqual(member.present(), truth())
      }),
    )
  }

  for (let step = 0; step < 150; step += 1) {
    const act = below(12)
    const chosen = here[1 + below(here.length - 1)]
    if (act < 3 && here.length < 8) {
      const key = keys[below(keys.length)]
      here.push({ member: await comings[below(comings.length)](key), key })
    } else if (!chosen) {
      continue
    } else if (act < 7) {
      chosen.payload = { n: below(3), of: here.indexOf(chosen) }
      call(chosen, chosen.member.track(chosen.payload))
    } else if (act < 9) {
      chosen.payload = undefined
      call(chosen, chosen.member.untrack())
    } else if (act < 11) {
      here.splice(here.indexOf(chosen), 1)
      // Behind what it has sent.
      if (act === 9) leaving.push(chosen.member.leave())
      else chosen.member.close()
    } else {
      await quieten()
    }
  }
  await quieten()
}

for (const seed of [1, 2, 3, 4, Date.now() % 1_000_000]) {
  test(`after any history every member knows what is (seed ${seed})`, () => live(seed))
}
