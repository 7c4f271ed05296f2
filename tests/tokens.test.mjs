// A page without a user account: the application's server has a token made for it, which opens the topics it names.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { kinds, newestOn1, signIn, subscribe } from './clients.mjs'
import { build, refusal } from './rooms.mjs'
import { Walcast } from './walcast.mjs'

// How long a sender waits for an answer that never comes.
const UNANSWERED_MS = 300

let walcast
before(async () => {
  walcast = await Walcast.start()
  await build(walcast)
  await walcast.sql(`
    create table public.scores (id int primary key, game int);
    alter table public.scores enable row level security;
    create policy shown on public.scores for select to anon using (game = (auth.jwt() ->> 'game')::int);
    grant select on public.scores to anon;
    alter publication supabase_realtime add table public.scores;
  `)
})
after(() => walcast.stop())

const ask = (key, body) =>
  fetch(`${walcast.url}/realtime/v1/api/tokens`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })

async function tokenFor(topics, more = {}) {
  const response = await ask(walcast.service_key, { topics, ...more })
  assert.equal(response.status, 200)
  const { token, expires_at } = await response.json()
  assert.ok(expires_at > Date.now() / 1000)
  return token
}

/** A client whose only key is the token, as a page has it. */
function page(kind, token) {
  const { url } = walcast
  return signIn({ ...kind, create: (_, _key, options) => kind.create(url, token, options) }, walcast, token)
}

const note = (payload) => ({ type: 'broadcast', event: 'note', payload })

for (const kind of [...kinds, newestOn1]) {
  describe(kind.name, () => {
    for (const isPrivate of [false, true]) {
      const config = { private: isPrivate, broadcast: { ack: true } }
      const room = isPrivate ? 'a private channel' : 'a public channel'

      test(`a listener of ${room} hears and does not speak, and enters no other`, async () => {
        const topic = `lobby of ${room}`
        const listening = await page(kind, await tokenFor([{ topic, read: true }]))
        const listener = await subscribe(listening, topic, [], config)
        const speaker = await subscribe(
          await page(kind, await tokenFor([{ topic, read: true, write: true }])),
          topic,
          [],
          config,
        )
        assert.equal(await speaker.channel.send(note({ n: 1 })), 'ok')
        assert.deepEqual(await listener.broadcasts.next(), note({ n: 1 }))
        assert.equal(await listener.channel.send(note({ n: 2 }), { timeout: UNANSWERED_MS }), 'timed out')
        assert.equal(await speaker.channel.send(note({ n: 3 })), 'ok')
        assert.deepEqual(await listener.broadcasts.next(), note({ n: 3 }))
        assert.equal(speaker.broadcasts.size, 0)
        assert.equal(
          await refusal(listening, 'elsewhere', config),
          'Unauthorized: This token is bound to other topics and does not open: elsewhere',
        )
      })
    }

    test('a page is told the changes that row level security shows it', async () => {
      await walcast.sql('truncate public.scores')
      const topics = [{ topic: 'scores', changes: true }]
      const client = await page(kind, await tokenFor(topics, { claims: { game: 7 } }))
      const heard = await subscribe(client, 'scores', [{ event: 'INSERT', table: 'scores' }])
      await walcast.sql('insert into public.scores values (1, 6), (2, 7)')
      assert.equal((await heard.changes.next()).new.id, 2)
    })

    test('a token with more rights brings them without a new join', async () => {
      const client = await page(kind, await tokenFor([{ topic: 'stage', read: true }]))
      const config = { private: true, broadcast: { ack: true } }
      const heard = await subscribe(client, 'stage', [], config)
      assert.equal(await heard.channel.send(note({ n: 1 }), { timeout: UNANSWERED_MS }), 'timed out')
      await client.realtime.setAuth(await tokenFor([{ topic: 'stage', read: true, write: true }]))
      assert.equal(await heard.channel.send(note({ n: 2 })), 'ok')
    })
  })
}

test('only the service key has tokens made', async () => {
  const body = { topics: [{ topic: 'lobby', read: true }] }
  const passing_on = await tokenFor(body.topics)
  for (const key of [walcast.anon_key, walcast.userToken('u1'), passing_on]) {
    assert.equal((await ask(key, body)).status, 403)
  }
})
