// The documentation: every link leads somewhere, and every command does what it says.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, readdir, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { program, project, Walcast } from './walcast.mjs'

/** Every page a reader may come to. */
async function pages() {
  const inFolder = async (folder) =>
    (await readdir(join(project, folder), { recursive: true }))
      .filter((name) => name.endsWith('.md'))
      .map((name) => join(folder, name))
  const top = (await readdir(project)).filter((name) => name.endsWith('.md'))
  const paths = [...top, ...(await inFolder('docs')), ...(await inFolder('docker').catch(() => []))]
  return Promise.all(paths.map(async (path) => ({ path, text: await readFile(join(project, path), 'utf8') })))
}

/** The text without code, in which nothing is a link. */
const prose = (text) => text.replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`\n]*`/g, '')

/** The anchors of a page's headings, as they are made where the page is read. */
function anchors(text) {
  const made = new Map()
  return new Set(
    [...text.replace(/^```[\s\S]*?^```/gm, '').matchAll(/^#{1,6} +(.*?) *#*$/gm)].map(([, heading]) => {
      const words = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replace(/[`*]/g, '')
      const anchor = words.toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').replace(/\s/g, '-')
      const seen = made.get(anchor) ?? 0
      made.set(anchor, seen + 1)
      return seen ? `${anchor}-${seen}` : anchor
    }),
  )
}

test('every link between pages leads to a file, and to a heading in it', async () => {
  const all = await pages()
  const lost = []
  for (const { path, text } of all) {
    for (const [, target] of prose(text).matchAll(/\]\(([^)\s]+)(?: "[^"]*")?\)/g)) {
      if (/^[a-z]+:/.test(target)) continue
      const [file, anchor] = target.split('#')
      const full = file ? resolve(project, dirname(path), decodeURIComponent(file)) : join(project, path)
      if (!existsSync(full)) lost.push(`${path}: ${target}`)
      else if (anchor && full.endsWith('.md') && !anchors(await readFile(full, 'utf8')).has(anchor))
        lost.push(`${path}: ${target} has no such heading`)
    }
  }
  assert.deepEqual(lost, [])
})

test('no page is without a way to it', async () => {
  const all = await pages()
  const linked = new Set(['README.md'])
  for (const { path, text } of all)
    for (const [, target] of prose(text).matchAll(/\]\(([^)\s#]+)/g))
      linked.add(relative(project, resolve(project, dirname(path), target)))
  const folders = [...linked].map((path) => path.replace(/\/$/, ''))
  const orphans = all
    .map(({ path }) => path)
    .filter((path) => !linked.has(path) && !folders.includes(dirname(path)))
  assert.deepEqual(orphans, [])
})

/** The commands of a page's `sh` blocks: lines that go on put together, in quotes as well, comments gone. */
function commands({ path, text }) {
  const found = []
  for (const [, block] of text.matchAll(/^```sh\n([\s\S]*?)^```/gm)) {
    let open = ''
    for (const line of block.replace(/\\\n\s*/g, '').split('\n')) {
      open += open ? `\n${line}` : line.replace(/\s+#\s.*$/, '').trim()
      if ((open.match(/'/g) ?? []).length % 2) continue
      if (open && !open.startsWith('#')) found.push({ path, command: open })
      open = ''
    }
    assert.equal(open, '', `${path}: a quote is not closed`)
  }
  return found
}

/** What becomes of a command of the documentation in a test; the first that fits counts. */
const KINDS = [
  // What is run by CI itself, or needs what is not here: that what it names is there is all that can be said.
  {
    of: /^make ([a-z-]+)/,
    check: async ([, target]) => {
      const makefile = await readFile(join(project, 'Makefile'), 'utf8')
      assert.match(makefile, new RegExp(`^${target}:.*##`, 'm'), `make has no target ${target}`)
    },
  },
  {
    of: /^git clone \S+ walcast && make -C walcast (\w+)/,
    check: async ([, target]) => assert.match(await readFile(join(project, 'Makefile'), 'utf8'), new RegExp(`^${target}:`, 'm')),
  },
  { of: /^cd supabase\/docker$/, check: () => {} },
  {
    of: /^docker compose (.*)/,
    check: ([, rest]) => {
      for (const [, file] of rest.matchAll(/(?:-f|--file) (?:…\/walcast\/)?(\S+)/g))
        if (!file.startsWith('docker-compose.yml')) assert.ok(existsSync(join(project, file)), `${file} is not there`)
    },
  },
  // Needs a server of several tenants, which the tests of that API start; here what is sent has to be one.
  {
    of: /^curl -X PUT \S+\/api\/tenants\/\w+ .*-d '(\{[\s\S]*\})'$/,
    check: ([, body]) => assert.ok(JSON.parse(body).tenant.extensions),
  },
  // Streams go on for ever: they have to begin.
  { of: /^curl -N/, run: { until: /^(id|event|data|:)/m } },
  { of: /^curl/, run: { code: 0 } },
  {
    of: /^psql -c 'alter publication supabase_realtime add/,
    before: 'alter publication supabase_realtime drop table public.messages',
    run: { code: 0 },
  },
  { of: /^walcast explain/, run: { code: [0, 1] } },
  { of: /^walcast token/, run: { code: 0, until: /^[\w-]+\.[\w-]+\.[\w-]+$/m } },
  // Its exit code says whether there is a problem; 2 and a panic say that it could not look.
  { of: /^walcast doctor/, run: { code: [0, 1] } },
  { of: /^([A-Z_]+=\S+ )+walcast$/, run: { until: /walcast listens/ } },
]

describe('every command', () => {
  let walcast, folder, environment
  before(async () => {
    walcast = await Walcast.start()
    folder = await mkdtemp(join(tmpdir(), 'walcast-docs-'))
    await mkdir(join(folder, 'bin'))
    await symlink(program, join(folder, 'bin/walcast'))
    const database = new URL(walcast.database_url)
    environment = {
      PATH: `${join(folder, 'bin')}:${process.env.PATH}`,
      HOME: folder,
      ANON_KEY: walcast.anon_key,
      SERVICE_KEY: walcast.service_key ?? walcast.sign({ role: 'service_role', exp: 4_000_000_000 }),
      API_JWT_SECRET: walcast.jwt_secret,
      DATABASE_URL: walcast.database_url,
      SERVICE_ROLE_KEY: walcast.sign({ role: 'service_role', exp: 4_000_000_000 }),
      TOKEN: walcast.sign({ exp: 4_000_000_000 }),
      USER_TOKEN: walcast.userToken('aaaaaaaa-0000-4000-8000-000000000001'),
      PORT: '0',
      PGHOST: database.hostname,
      PGPORT: database.port,
      PGUSER: decodeURIComponent(database.username),
      PGPASSWORD: decodeURIComponent(database.password),
      PGDATABASE: database.pathname.slice(1),
    }
  })
  after(async () => {
    await walcast.stop()
    await rm(folder, { recursive: true, force: true })
  })

  /** A command with what a reader has to fill in. */
  const filledIn = (command) =>
    command
      .replaceAll('http://localhost:4000', walcast.url.replace(/\/$/, ''))
      .replaceAll(/postgres:\/\/\S*…\S*/g, walcast.database_url)
      .replaceAll(/DATABASE_URL=…/g, `DATABASE_URL=${walcast.database_url}`)
      .replaceAll(/API_JWT_SECRET=…/g, `API_JWT_SECRET=${walcast.jwt_secret}`)
      .replaceAll(/eyJ…|<the JWT of the user>/g, walcast.anon_key)
      .replace(/^curl (?!-N)/, 'curl --fail-with-body ')

  /** Runs a command until it ends, or has said what is waited for; fails where it says something else. */
  async function run(command, { code, until }) {
    const child = spawn('sh', ['-c', filledIn(command)], { env: environment, detached: true })
    let said = ''
    const heard = new Promise((resolve) => {
      const listen = (chunk) => {
        said += chunk
        if (until?.test(said)) resolve('heard')
      }
      child.stdout.on('data', listen)
      child.stderr.on('data', listen)
    })
    const ended = new Promise((resolve) => child.on('close', resolve))
    const patience = AbortSignal.timeout(30_000)
    const late = new Promise((resolve) => patience.addEventListener('abort', () => resolve('late')))
    try {
      const outcome = await Promise.race([code === undefined ? heard : ended, ended, late])
      assert.notEqual(outcome, 'late', `nothing came of it: ${said}`)
      if (code !== undefined) assert.ok([code].flat().includes(outcome), `exit code ${outcome}: ${said}`)
      if (until) assert.match(said, until)
    } finally {
      try {
        process.kill(-child.pid, 'SIGTERM')
      } catch {
        // It has ended.
      }
      await ended
    }
  }

  test('does what it says, or names what is there', async (context) => {
    for (const { path, command } of (await pages()).flatMap(commands)) {
      await context.test(`${path}: ${command}`, async () => {
        const kind = KINDS.find(({ of }) => of.test(command))
        assert.ok(kind, 'nobody has said how this command is tested')
        if (kind.before) await walcast.sql(kind.before)
        if (kind.run) await run(command, kind.run)
        else await kind.check(command.match(kind.of))
      })
    }
  })
})
