// Row level security decides per user, and per token.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, kinds, signIn, subscribe } from './clients.mjs'
import { startServer } from './server.mjs'

const ADA = '11111111-1111-4111-8111-111111111111'
const BEN = '22222222-2222-4222-8222-222222222222'

let walcast
before(async () => {
  walcast = await startServer()
  await walcast.sql(`
    create table public.papers (id int primary key, owner uuid, team text, secret text, title text);
    alter table public.papers enable row level security;
    revoke select on public.papers from authenticated;
    grant select (id, owner, team, title) on public.papers to authenticated;
    create policy own on public.papers for select to authenticated using (owner = (select auth.uid()));
    create policy team on public.papers for select to authenticated using (team = (auth.jwt() ->> 'team'));
    alter publication supabase_realtime add table public.papers;
  `)
})
after(() => walcast.stop())

const inserts = [{ event: 'INSERT', table: 'papers' }]
const write = (id, owner, team = 'none') =>
  walcast.sql(`insert into public.papers values ($1, $2, $3, 'hidden', 'title')`, [id, owner, team])

for (const kind of kinds) {
  describe(kind.name, () => {
    before(() => walcast.sql('truncate public.papers'))

    test('signed-in users see their own rows only', async () => {
      const ada = await subscribe(await signIn(kind, walcast, walcast.userToken(ADA)), 'own', inserts)
      const ben = await subscribe(await signIn(kind, walcast, walcast.userToken(BEN)), 'own', inserts)
      await write(1, ADA)
      await write(2, BEN)
      await write(3, ADA)
      await write(4, BEN)
      const ids = async (heard) => [(await heard.changes.next()).new.id, (await heard.changes.next()).new.id]
      assert.deepEqual(await ids(ada), [1, 3])
      assert.deepEqual(await ids(ben), [2, 4])
    })

    test('a column without the right to read it does not arrive', async () => {
      const ada = await subscribe(await signIn(kind, walcast, walcast.userToken(ADA)), 'columns', inserts)
      await write(10, ADA)
      assert.deepEqual((await ada.changes.next()).new, { id: 10, owner: ADA, team: 'none', title: 'title' })
    })

    test('a user sees updates of visible rows, and of deleted rows the key alone', async () => {
      const ada = await subscribe(await signIn(kind, walcast, walcast.userToken(ADA)), 'updates', [
        { event: '*', table: 'papers' },
      ])
      await write(20, BEN)
      await write(21, ADA)
      await walcast.sql(`update public.papers set title = 'new' where id in (20, 21)`)
      await walcast.sql('delete from public.papers where id = 21')
      const [insert, update, gone] = [await ada.changes.next(), await ada.changes.next(), await ada.changes.next()]
      assert.deepEqual([insert.eventType, insert.new.id], ['INSERT', 21])
      assert.deepEqual([update.eventType, update.new.id, update.new.title], ['UPDATE', 21, 'new'])
      assert.deepEqual([gone.eventType, gone.old], ['DELETE', { id: 21 }])
    })

    test('the notes of the page: a visitor gets shared ones, a user private ones of their own too', async () => {
      const notes = [{ event: 'INSERT', table: 'messages' }]
      const visitor = await subscribe(connect(kind, walcast), 'notes', notes)
      const ada = await subscribe(await signIn(kind, walcast, walcast.userToken(ADA)), 'notes', notes)
      await walcast.sql(
        `insert into public.messages (user_id, body, is_private)
         values ($1, 'for Ada', true), ($2, 'for Ben', true), ($2, 'for all', false)`,
        [ADA, BEN],
      )
      assert.equal((await visitor.changes.next()).new.body, 'for all')
      assert.equal((await ada.changes.next()).new.body, 'for Ada')
      assert.equal((await ada.changes.next()).new.body, 'for all')
    })

    test('setAuth with another token changes what a joined channel sees', async () => {
      const session = { token: walcast.userToken(ADA, { team: 'red' }) }
      const client = connect(kind, walcast, session)
      await client.realtime.setAuth()
      const heard = await subscribe(client, 'teams', inserts)
      const subscribed = (message) => message.status === 'ok' && message.message === 'Subscribed to PostgreSQL'
      await heard.systems.until(subscribed)
      await write(30, BEN, 'red')
      assert.equal((await heard.changes.next()).new.id, 30)

      session.token = walcast.userToken(ADA, { team: 'blue' })
      await client.realtime.setAuth(session.token)
      await heard.systems.until(subscribed)
      await write(31, BEN, 'red')
      await write(32, BEN, 'blue')
      assert.equal((await heard.changes.next()).new.id, 32)
    })
  })
}
