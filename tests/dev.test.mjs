// `walcast dev` as a newcomer meets it.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chown, copyFile, readFile, symlink, writeFile } from 'node:fs/promises'
import { createServer, connect as connectTcp } from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, describe, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { dataFolder, program, project, run, Walcast } from './walcast.mjs'

const NOBODY = 65534

/** Waits until a process that is not our child is gone. */
async function gone(pid) {
  for (const end_ms = performance.now() + 15_000; performance.now() < end_ms; await pause(20)) {
    try {
      process.kill(pid, 0)
    } catch (error) {
      if (error.code === 'ESRCH') return
      throw error
    }
  }
  assert.fail(`process ${pid} is still there`)
}

const postmaster = async (data) =>
  Number((await readFile(join(data, 'postgres/data/postmaster.pid'), 'utf8')).split('\n')[0])

describe('the program', () => {
  let data
  before(async () => (data = await dataFolder()))
  after(() => data.remove())

  test('Ctrl-C ends it and Postgres; the next start finds its data and keys again', async () => {
    const first = await Walcast.start({ data: data.path })
    await first.sql(`insert into public.messages (user_id, body) values (gen_random_uuid(), 'kept')`)
    const pid = await postmaster(data.path)
    assert.equal((await first.stop()).code, 0)
    await gone(pid)

    const second = await Walcast.start({ data: data.path })
    try {
      assert.deepEqual(await second.sql('select body from public.messages'), [{ body: 'kept' }])
      assert.equal(second.jwt_secret, first.jwt_secret)
      assert.equal(new URL(second.database_url).password, new URL(first.database_url).password)
    } finally {
      await second.stop()
    }
  })

  test('Postgres does not outlive a server that was killed', async () => {
    const walcast = await Walcast.start({ data: data.path })
    const pid = await postmaster(data.path)
    await walcast.crash()
    await gone(pid)
  })

  test('it ends with whoever reads its JSON', async () => {
    const walcast = await Walcast.start({ data: data.path })
    const pid = await postmaster(data.path)
    assert.equal((await walcast.abandon()).code, 0)
    await gone(pid)
  })

  test('a taken port is told in one sentence with a remedy', async () => {
    const other = createServer().listen(0, '127.0.0.1')
    await once(other, 'listening')
    try {
      const { port } = other.address()
      const { code, log } = await run(['--port', String(port), '--data', data.path]).stopped
      assert.equal(code, 1)
      assert.match(log, new RegExp(`^walcast: port ${port} cannot be listened on \\(.*\\); .* choose another port with --port\n$`))
    } finally {
      other.close()
    }
  })

  test('a second one on the same data is refused, and the first goes on', async () => {
    const first = await Walcast.start({ data: data.path })
    try {
      const { code, log } = await run(['--port', '0', '--data', data.path]).stopped
      assert.equal(code, 1)
      assert.match(log, /postgres/)
      assert.equal((await fetch(`${first.url}/readyz`)).status, 200)
    } finally {
      await first.stop()
    }
  })

  test('it listens on the loopback address alone', async (t) => {
    const address = Object.values(networkInterfaces())
      .flat()
      .find((one) => one.family === 'IPv4' && !one.internal)?.address
    if (!address) return t.skip('this machine has no address but the loopback')
    const walcast = await Walcast.start({ data: data.path })
    try {
      const socket = connectTcp(walcast.port, address)
      const [error] = await once(socket, 'error')
      assert.equal(error.code, 'ECONNREFUSED')
    } finally {
      await walcast.stop()
    }
  })

  test('an ordinary user can run it', async (t) => {
    if (process.getuid() !== 0) return t.skip('an ordinary user runs these tests: all of them show it')
    const home = await dataFolder()
    try {
      await chown(home.path, NOBODY, NOBODY)
      // The project may lie where others have no access.
      const binary = join(home.path, 'walcast')
      await copyFile(program, binary)
      // Where scripts/fetch-postgres puts versions that nobody installed.
      await symlink(join(project, '.walcast'), join(home.path, '.walcast'))
      const walcast = await Walcast.start({ data: home.path, binary, cwd: home.path, uid: NOBODY, gid: NOBODY })
      assert.equal((await fetch(`${walcast.url}/readyz`)).status, 200)
      assert.equal((await walcast.stop()).code, 0)
    } finally {
      await home.remove()
    }
  })
})

test('the snippet that it prints works as it is', async () => {
  const data = await dataFolder()
  const { child, stopped } = run(['--port', '0', '--data', data.path])
  try {
    const printed = []
    for await (const line of createInterface({ input: child.stdout })) {
      printed.push(line)
      if (line.includes('Ctrl-C')) break
    }
    const start = printed.findIndex((line) => line.includes('import { createClient }'))
    const end = printed.findIndex((line) => line.includes('.subscribe('))
    const snippet = printed.slice(start, end + 1).join('\n')
    assert.ok(end - start < 8, snippet)

    await writeFile(join(data.path, 'snippet.mjs'), snippet)
    // Browsers and Node 22 have what Node 20 lacks.
    await writeFile(join(data.path, 'socket.mjs'), `import ws from 'ws'; globalThis.WebSocket ??= ws`)
    await symlink(join(project, 'tests/node_modules'), join(data.path, 'node_modules'))
    const application = spawn(process.execPath, ['--import', './socket.mjs', 'snippet.mjs'], { cwd: data.path })
    try {
      const lines = createInterface({ input: application.stdout })[Symbol.asyncIterator]()
      const until = async (word) => {
        for (;;) {
          const { value, done } = await lines.next()
          if (done) assert.fail(`the snippet ended before it printed ${word}`)
          if (value.includes(word)) return
        }
      }
      await until('SUBSCRIBED')
      const url = printed.find((line) => /^\s+URL /.test(line)).trim().split(/\s+/)[1]
      const { users } = await (await fetch(`${url}/dev/settings`)).json()
      const written = await fetch(`${url}/dev/notes`, {
        method: 'POST',
        headers: { authorization: `Bearer ${users.ada.token}`, 'content-type': 'application/json' },
        body: JSON.stringify({ body: 'hello from the page' }),
      })
      assert.equal(written.status, 200)
      await until('hello from the page')
    } finally {
      application.kill()
      await once(application, 'close')
    }
  } finally {
    child.kill('SIGINT')
    await stopped
    await data.remove()
  }
})

describe('the routes of the page', () => {
  let walcast, ada, ben
  before(async () => {
    walcast = await Walcast.start()
    const { users } = await (await fetch(`${walcast.url}/dev/settings`)).json()
    ada = users.ada.token
    ben = users.ben.token
  })
  after(() => walcast.stop())

  async function ask(token, method, path = '', note) {
    const answer = await fetch(`${walcast.url}/dev/notes${path}`, {
      method,
      headers: { ...(token && { authorization: `Bearer ${token}` }), 'content-type': 'application/json' },
      body: note && JSON.stringify(note),
    })
    return { status: answer.status, body: await answer.json() }
  }

  test('users write notes as themselves, and read what the policies let them', async () => {
    const shared = await ask(ada, 'POST', '', { body: 'shared' })
    const secret = await ask(ada, 'POST', '', { body: 'secret', is_private: true })
    assert.deepEqual([shared.status, secret.status], [200, 200])
    const bodies = async (token) => (await ask(token, 'GET')).body.map((note) => note.body)
    assert.deepEqual(await bodies(ada), ['shared', 'secret'])
    assert.deepEqual(await bodies(ben), ['shared'])
    assert.deepEqual(await bodies(walcast.anon_key), ['shared'])
  })

  test('nobody changes or deletes the notes of another', async () => {
    const { body } = await ask(ada, 'POST', '', { body: 'mine' })
    assert.deepEqual((await ask(ben, 'PATCH', `/${body.id}`, { body: 'stolen' })).body, { changed: 0 })
    assert.deepEqual((await ask(ben, 'DELETE', `/${body.id}`)).body, { deleted: 0 })
    assert.deepEqual((await ask(ada, 'PATCH', `/${body.id}`, { body: 'changed' })).body, { changed: 1 })
    assert.deepEqual((await ask(ada, 'DELETE', `/${body.id}`)).body, { deleted: 1 })
  })

  test('a visitor writes nothing', async () => {
    const { status, body } = await ask(walcast.anon_key, 'POST', '', { body: 'graffiti' })
    assert.equal(status, 403)
    assert.match(body.message, /row-level security/)
  })

  test('without a token of a user nothing is answered', async () => {
    for (const token of [undefined, 'nonsense', walcast.service_key, `${ada}x`]) {
      assert.equal((await ask(token, 'GET')).status, 401, String(token))
    }
  })
})
