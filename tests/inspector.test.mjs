// The inspector in a real browser, on a server as an operator runs it.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { get } from 'node:http'
import { after, afterEach, before, beforeEach, describe, test } from 'node:test'
import { launch, skip } from './browser.mjs'
import { Node } from './nodes.mjs'
import { Walcast } from './walcast.mjs'

const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** `walcast dev` for its Postgres and keys, and a server on the same database. */
let walcast, node
before(async () => {
  walcast = await Walcast.start()
  node = await Node.start(walcast, null, {})
  await walcast.sql(`
    create table public.orders (id int primary key, item text, paid boolean not null default false);
    create table public.drawers (id int primary key);
    alter table public.drawers enable row level security;
    grant select on public.orders, public.drawers to anon, authenticated;
    alter publication supabase_realtime add table public.orders, public.drawers;
  `)
})
after(async () => {
  await node?.stop()
  await walcast?.stop()
})

describe('the inspector', { skip }, () => {
  let browser, context, trouble, expected, origins
  before(async () => (browser = await launch()))
  after(() => browser?.close())
  beforeEach(() => begin())
  afterEach(async () => {
    await context.close()
    assert.deepEqual(trouble.filter((what) => !expected.test(what)), [])
  })

  /** A fresh browser, which takes note of all that a page should not do. */
  async function begin(options = {}) {
    await context?.close()
    trouble = []
    expected = /^never$/
    origins = [walcast.url, node.url]
    context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options })
    await context.grantPermissions(['clipboard-read', 'clipboard-write'])
    await context.addInitScript(() =>
      addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) =>
        console.error(`not allowed: ${violatedDirective} ${blockedURI}`),
      ),
    )
    context.on('page', (page) => {
      page.on('pageerror', (error) => trouble.push(error.message))
      page.on('console', (message) => message.type() === 'error' && trouble.push(message.text()))
      page.on('request', (request) => {
        const { protocol, origin } = new URL(request.url())
        if (protocol !== 'blob:' && !origins.includes(origin)) trouble.push(`a request to ${request.url()}`)
      })
    })
  }

  /** The page of the server, not connected. */
  async function open(path = '/') {
    const page = await context.newPage()
    await page.goto(node.url + path)
    return page
  }

  const isConnected = (page) => page.locator('.connection-state[data-status=open]').waitFor()

  async function connect(page, key = walcast.anon_key) {
    await page.locator('#key').fill(key)
    await page.getByRole('button', { name: 'Connect', exact: true }).click()
    await isConnected(page)
  }

  /** Joins and waits for the outcome. */
  async function join(page, topic, { tables = [], checks = [], status = 'joined' } = {}) {
    const form = page.locator('#join-form')
    await form.locator('#topic').fill(topic)
    for (const { table, filter = '' } of tables) {
      await form.getByRole('button', { name: '+ Row changes of a table' }).click()
      const binding = form.locator('.bindings fieldset').last()
      await binding.getByLabel('Table').fill(table)
      await binding.getByLabel('Filter').fill(filter)
    }
    for (const name of checks) await form.locator(`[name=${name}]`).check()
    await form.getByRole('button', { name: 'Join', exact: true }).click()
    await card(page, topic, status).waitFor()
  }

  const card = (page, topic, status) => page.locator(`.channel[data-topic="${topic}"]${status ? `[data-status=${status}]` : ''}`)
  const line = (page, text) => page.locator('.line', { hasText: text })

  /** Names what a search for obstacles finds. */
  async function obstacles(page) {
    // Playwright evaluates past the page's policy.
    await page.evaluate(axe)
    const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }))
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' | ')}`)
  }

  test('a row is seen live, with the time since its commit and its payload', async () => {
    const page = await open()
    await connect(page)
    await join(page, 'shop', { tables: [{ table: 'orders', filter: 'paid=eq.true' }] })
    await walcast.sql(`insert into public.orders values (1, 'apples', false), (2, 'pears', true)`)
    await line(page, 'pears').waitFor()
    assert.equal(await line(page, 'apples').count(), 0)
    assert.match(await line(page, 'pears').locator('.latency').textContent(), /^-?\d+(\.\d)? m?s$/)
    await line(page, 'pears').click()
    const body = page.locator('.event-body:not([hidden])')
    assert.match(await body.locator('.facts').textContent(), /from the commit in Postgres/)
    assert.equal(await body.locator('.json-string', { hasText: 'pears' }).textContent(), '"pears"')
    await body.getByRole('button', { name: 'Copy payload' }).click()
    await body.getByRole('button', { name: 'Copied' }).waitFor()
    assert.equal(JSON.parse(await page.evaluate(() => navigator.clipboard.readText())).data.record.item, 'pears')
    assert.match(await page.locator('#plot figcaption').textContent(), /last minute \d+.*median/)
  })

  test('events are filtered by kind, channel and text, held, and cleared', async () => {
    const page = await open()
    await connect(page)
    await join(page, 'one', { tables: [{ table: 'orders' }] })
    await join(page, 'two', { checks: ['self'] })
    await page.locator('#send-event').fill('shout')
    await page.locator('#send-form').getByRole('button', { name: 'Send', exact: true }).click()
    await walcast.sql(`insert into public.orders values (10, 'plums')`)
    await line(page, 'plums').waitFor()
    await page.locator('.event[data-direction=in] .line', { hasText: 'shout' }).waitFor()
    const shown = async (text) => (await line(page, text).count()) > 0

    await page.locator('#filters [value=change]').uncheck()
    await line(page, 'plums').waitFor({ state: 'detached' })
    assert.ok(await shown('shout'))
    await page.locator('#filters [value=change]').check()

    await page.locator('#filter-topic').selectOption('one')
    await line(page, 'shout').first().waitFor({ state: 'detached' })
    assert.ok(await shown('plums'))
    await page.locator('#filter-topic').selectOption('')

    await page.locator('#filter-text').fill('PLUM')
    await line(page, 'shout').first().waitFor({ state: 'detached' })
    assert.ok(await shown('plums'))
    await page.locator('#filter-text').fill('')
    await line(page, 'shout').first().waitFor()

    await page.getByRole('button', { name: 'Pause' }).click()
    await walcast.sql(`insert into public.orders values (11, 'quinces')`)
    await page.getByRole('button', { name: 'Resume (1 new)' }).click()
    await line(page, 'quinces').waitFor()

    await page.locator('#filter-text').fill('quinces')
    await line(page, 'plums').waitFor({ state: 'detached' })
    const download = page.waitForEvent('download')
    await page.getByRole('button', { name: 'Save' }).click()
    const saved = (await readFile(await (await download).path(), 'utf8')).trim().split('\n').map((line) => JSON.parse(line))
    assert.deepEqual(saved.map(({ kind, topic, payload }) => [kind, topic, payload.data.record.item]), [['change', 'one', 'quinces']])

    await page.getByRole('button', { name: 'Clear' }).click()
    await page.getByText('Nothing has come yet.').waitFor()
    assert.equal(await page.locator('.line').count(), 0)
  })

  test('a broadcast is sent over the socket and over HTTP, and its echo is timed', async () => {
    const page = await open()
    await connect(page)
    await join(page, 'room', { checks: ['self', 'ack'] })
    const form = page.locator('#send-form')
    await form.locator('#send-event').fill('moved')
    await form.locator('#send-payload').fill('{"x": 1')
    await form.getByRole('button', { name: 'Send', exact: true }).click()
    assert.match(await form.getByRole('alert').textContent(), /^This is not JSON: /)

    await form.locator('#send-payload').fill('{"x": 1}')
    await form.getByRole('button', { name: 'Send', exact: true }).click()
    await form.getByText(/^Acknowledged after \d+ ms\.$/).waitFor()
    const echo = page.locator('.event[data-direction=in][data-kind=broadcast]')
    await echo.first().waitFor()
    assert.match(await echo.first().locator('.latency').textContent(), /^\d+ ms$/)
    await echo.first().locator('.line').click()
    assert.match(await echo.first().locator('.facts').textContent(), /from sending it here to its echo/)

    await form.locator('#send-payload').fill('{"x": 2}')
    await form.getByRole('button', { name: 'Send over HTTP' }).click()
    await form.getByText(/^Accepted over HTTP after \d+ ms\.$/).waitFor()
    await page.locator('.event[data-direction=in] .line', { hasText: '{"x":2}' }).waitFor()
  })

  test('who is present is shown, with what they track, and one can come and go', async () => {
    const [ada, ben] = [await open(), await open()]
    for (const [page, name] of [[ada, 'Ada'], [ben, 'Ben']]) {
      await connect(page)
      await page.locator('#join-form [name=presence]').check()
      await page.locator('#presence-key').fill(name)
      await join(page, 'lobby')
      await page.getByRole('tab', { name: 'Presence' }).click()
      await page.locator('#track-payload').fill(JSON.stringify({ mood: `${name} is calm` }))
      await page.getByRole('button', { name: 'Track', exact: true }).click()
      await page.getByText(/^Tracked after \d+ ms\.$/).waitFor()
    }
    for (const page of [ada, ben]) {
      await page.getByText('2 are here.').waitFor()
      assert.match(await page.locator('.present [data-key=Ben]').textContent(), /Ben is calm/)
    }
    await ben.getByRole('button', { name: 'Untrack' }).click()
    await ada.getByText('1 is here.').waitFor()
    assert.equal(await ada.locator('.present [data-key=Ben]').count(), 0)
    await line(ada, 'left').waitFor()
  })

  test('a refused private channel says why, and the SQL it offers lets one in', async () => {
    expected = /status of 403/
    const page = await open()
    await connect(page, walcast.userToken('11111111-1111-4111-8111-111111111111'))
    await join(page, `board's`, { checks: ['private'], status: 'refused' })
    const notice = card(page, `board's`).locator('.notice')
    assert.equal(await notice.locator('.code').textContent(), 'Unauthorized')
    assert.match(await notice.textContent(), /You do not have permissions to read from this Channel topic: board's/)
    await walcast.sql(await notice.locator('pre').textContent())
    // The client tries again by itself.
    await card(page, `board's`, 'joined').waitFor()
    assert.equal(await notice.count(), 0)

    await page.locator('#send-form').getByRole('button', { name: 'Send over HTTP' }).click()
    const outcome = page.locator('#send-form .outcome', { hasText: 'Refused over HTTP' })
    const [, remedy] = /(create policy .*);$/.exec(await outcome.textContent())
    await walcast.sql(remedy)
    await page.locator('#send-form').getByRole('button', { name: 'Send over HTTP' }).click()
    await page.getByText(/^Accepted over HTTP/).waitFor()
  })

  test('a subscription that will stay silent carries its warning, with the SQL', async () => {
    const page = await open()
    await connect(page)
    await join(page, 'desk', { tables: [{ table: 'drawers' }] })
    const notice = card(page, 'desk').locator('.notice[data-level=warning]')
    await notice.waitFor()
    assert.match(await notice.locator('p').textContent(), /row level security is enabled on public\.drawers and no policy/)
    assert.match(await notice.locator('pre').textContent(), /^create policy .* on public\.drawers for select/)
  })

  test('a table that is not offered is told as an error', async () => {
    const page = await open()
    await connect(page)
    await join(page, 'desk', { tables: [{ table: 'nowhere' }] })
    const notices = card(page, 'desk').locator('.notice')
    await notices.nth(1).waitFor()
    assert.match(await notices.nth(0).textContent(), /Unable to subscribe to changes/)
    assert.match(await notices.nth(1).textContent(), /there is no table public\.nowhere/)
  })

  test('the keyboard does it all', async () => {
    const page = await open()
    const type = (text) => page.keyboard.type(text)
    const press = async (...keys) => {
      for (const key of keys) await page.keyboard.press(key)
    }
    const focused = (id) => page.waitForFunction((id) => document.activeElement.id === id, id)
    // Where there is no key yet, it is asked for.
    await focused('key')
    await type(walcast.anon_key)
    await press('Enter')
    await isConnected(page)
    await focused('topic')
    await type('by-keys')
    await press('Tab', 'Enter')
    await page.waitForFunction(() => document.activeElement.closest('.field-table'))
    await type('orders')
    await press('Enter')
    await card(page, 'by-keys', 'joined').waitFor()
    await walcast.sql(`insert into public.orders values (20, 'medlars')`)
    await line(page, 'medlars').waitFor()

    await press('Escape', 'l', 'Enter')
    assert.equal(await page.locator('.line[aria-expanded=true]').count(), 1)
    const first = await page.locator('.line').first().textContent()
    assert.equal(await page.evaluate(() => document.activeElement.textContent), first)
    await press('ArrowDown')
    assert.notEqual(await page.evaluate(() => document.activeElement.textContent), first)
    await press('p')
    await page.getByRole('button', { name: 'Resume' }).waitFor()
    await press('p', 'b')
    await focused('send-event')
    // A letter is a letter while one writes.
    await type('pace')
    assert.equal(await page.locator('#send-event').inputValue(), 'pace')
    await press('Control+Enter')
    await page.locator('.line', { hasText: 'pace' }).waitFor()
    await press('Escape', 'r')
    await focused('track-payload')
    await press('Escape', 'e')
    await focused('explain-key')
    await press('Escape', '/')
    await focused('filter-text')
    await press('Escape', '?')
    await page.getByRole('dialog', { name: 'Shortcuts' }).waitFor()
    await press('Escape', 'c')
    await page.getByText('Nothing has come yet.').waitFor()
  })

  test('single keys can be switched off', async () => {
    const page = await open()
    await connect(page)
    await page.getByRole('button', { name: 'Shortcuts' }).click()
    await page.getByLabel('Single keys do these things').uncheck()
    await page.keyboard.press('Escape')
    await page.keyboard.press('p')
    assert.equal(await page.getByRole('button', { name: 'Pause' }).getAttribute('aria-pressed'), 'false')
  })

  for (const scheme of ['light', 'dark']) {
    test(`it is ${scheme} where the system is, without obstacles`, async () => {
      await begin({ colorScheme: scheme })
      const page = await open()
      assert.deepEqual(await obstacles(page), [])
      await connect(page)
      await join(page, 'shop', { tables: [{ table: 'orders' }, { table: 'drawers' }], checks: ['presence'] })
      await join(page, 'secret', { checks: ['private'], status: 'refused' })
      await walcast.sql(`insert into public.orders values (${scheme === 'dark' ? 31 : 30}, 'figs')`)
      await line(page, 'figs').click()
      // An animation that is on its way has colours nobody means.
      await page.emulateMedia({ reducedMotion: 'reduce' })
      for (const tool of ['Send', 'Presence', 'Why not?']) {
        await page.getByRole('tab', { name: tool }).click()
        assert.deepEqual(await obstacles(page), [], tool)
      }
      await page.locator('#join-form').getByRole('button', { name: '+ Row changes of a table' }).click()
      await page.getByRole('button', { name: 'Shortcuts' }).click()
      assert.deepEqual(await obstacles(page), [], 'Shortcuts')
    })
  }

  test('light and dark are a choice that stays', async () => {
    await begin({ colorScheme: 'light' })
    const page = await open()
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
    const light = await background()
    await page.getByLabel('Appearance').selectOption('dark')
    const dark = await background()
    assert.notEqual(dark, light)
    await page.reload()
    assert.equal(await background(), dark)
    await page.getByLabel('Appearance').selectOption('system')
    assert.equal(await background(), light)
  })

  test('a telephone needs no sideways scrolling', async () => {
    await begin({ viewport: { width: 390, height: 844 } })
    const page = await open()
    await connect(page)
    await join(page, 'w'.repeat(120), { tables: [{ table: 'orders' }, { table: 'drawers' }] })
    await join(page, 'secret', { checks: ['private', 'presence'], status: 'refused' })
    await walcast.sql(`insert into public.orders values (40, repeat('w', 300))`)
    await line(page, 'wwwww').last().waitFor()
    for (const open of await page.locator('.line').all()) await open.click()
    for (const tool of ['Presence', 'Why not?', 'Send']) {
      await page.getByRole('tab', { name: tool }).click()
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390, tool)
    }
    await page.getByRole('navigation', { name: 'Parts of this page' }).getByRole('link', { name: 'Events' }).click()
    assert.ok(await page.locator('#events-title').isVisible())
  })

  test('a link takes the channels along, and never the key', async () => {
    const page = await open()
    await connect(page)
    await join(page, 'shop', { tables: [{ table: 'orders', filter: 'id=gt.0' }], checks: ['self'] })
    await page.getByRole('button', { name: 'Copy link' }).click()
    await page.getByRole('button', { name: 'Copied' }).waitFor()
    const link = await page.evaluate(() => navigator.clipboard.readText())
    assert.ok(!link.includes(walcast.anon_key.split('.')[2]), link)
    assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes('eyJ'))

    // The same tab still has its key; another one asks for it first.
    await page.reload()
    await card(page, 'shop', 'joined').waitFor()
    const other = await context.newPage()
    await other.goto(link)
    assert.equal(await other.locator('#key').inputValue(), '')
    await connect(other)
    await card(other, 'shop', 'joined').waitFor()
    assert.match(await card(other, 'shop').textContent(), /self.*all of public\.orders where id=gt\.0/)
  })

  test('a key that is refused is answered in the words of the server', async () => {
    expected = /WebSocket connection to .* failed|status of 401/
    const page = await open()
    await page.locator('#key').fill(`${walcast.anon_key.slice(0, -4)}AAAA`)
    await page.getByRole('button', { name: 'Connect', exact: true }).click()
    await page.locator('.connection-state[data-status=refused]').waitFor()
    assert.match(await page.locator('#connect-form .problem').textContent(), /Failed to validate JWT signature/)
    await connect(page)
  })

  test('a lost connection is shown, and found again', async () => {
    expected = /WebSocket connection to .* failed|ERR_CONNECTION_REFUSED/
    // Another one, as its Postgres goes with it.
    const other = await Walcast.start()
    origins.push(other.url)
    try {
      const page = await context.newPage()
      await page.goto(`${other.url}/inspector`)
      await isConnected(page)
      await join(page, 'stays')
      const lost = page.locator('.connection-state[data-status=lost]').waitFor()
      await other.crashAndRestart()
      await lost
      await isConnected(page)
      await card(page, 'stays', 'joined').waitFor()
    } finally {
      await other.stop()
    }
  })

  test('it talks to the server it comes from alone', async () => {
    const page = await open('/#url=https://elsewhere.example')
    await page.locator('#key').fill(walcast.anon_key)
    await page.getByRole('button', { name: 'Connect', exact: true }).click()
    assert.match(await page.locator('#connect-form .problem').textContent(), /^This page talks to the server it comes from/)
    const link = page.getByRole('link', { name: 'Open the inspector of elsewhere.example' })
    assert.equal(await link.getAttribute('href'), 'https://elsewhere.example/')
  })

  test('a row that is hidden is explained, check by check and policy by policy', async () => {
    await walcast.sql(`
      create table if not exists public.letters (id int primary key, recipient uuid, text text);
      alter table public.letters enable row level security;
      grant select on public.letters to authenticated;
      create policy "letters are for their recipients" on public.letters for select to authenticated using (recipient = (select auth.uid()));
      alter publication supabase_realtime add table public.letters;
      insert into public.letters values (5, '22222222-2222-4222-8222-222222222222', 'a secret');
    `)
    const page = await open()
    await connect(page, walcast.userToken('11111111-1111-4111-8111-111111111111'))
    await join(page, 'post', { tables: [{ table: 'letters' }] })
    await page.getByRole('button', { name: 'Why not? About post' }).click()
    await page.getByLabel('Primary key of the row').fill('{"id": 5}')
    await page.getByLabel('Service key').fill(walcast.service_key)
    const ask = async (visible) => {
      await page.getByRole('button', { name: 'Ask' }).click()
      await page.locator(`.verdict[data-visible=${visible}]`).waitFor()
    }
    await ask(false)
    assert.match(await page.locator('.verdict').textContent(), /^No: .+/)
    assert.equal(await page.locator('[data-check=policies] [role=img]').getAttribute('aria-label'), 'failed')
    assert.equal(await page.locator('[data-check=row] [role=img]').getAttribute('aria-label'), 'passed')
    assert.match(await page.locator('.policies').textContent(), /letters are for their recipients.*permissive · to authenticated.*recipient/)
    assert.ok(!(await page.locator('.answer').textContent()).includes('a secret'))
    assert.deepEqual(await obstacles(page), [])

    await page.getByLabel('by claims').check()
    await page.getByLabel('Claims', { exact: true }).fill('{"role": "authenticated", "sub": "22222222-2222-4222-8222-222222222222"}')
    await ask(true)
    assert.equal(await page.locator('.verdict').textContent(), 'Yes: authenticated 22222222-2222-4222-8222-222222222222 receives this row.')
  })

  test('a private channel that is refused is explained', async () => {
    const page = await open()
    await connect(page, walcast.userToken('11111111-1111-4111-8111-111111111111'))
    await join(page, 'cellar', { checks: ['private'], status: 'refused' })
    await page.getByRole('button', { name: 'Why not? About cellar' }).click()
    await page.getByLabel('Service key').fill(walcast.service_key)
    await page.getByRole('button', { name: 'Ask' }).click()
    await page.locator('.verdict[data-visible=false]').waitFor()
    assert.match(await page.locator('[data-check=policies]').textContent(), /create policies on realtime\.messages/)
  })

  test('who has no service key is told what to do', async () => {
    expected = /status of 403/
    const page = await open()
    await connect(page)
    await join(page, 'shop', { tables: [{ table: 'orders' }] })
    await page.getByRole('button', { name: 'Why not? About shop' }).click()
    assert.equal(await page.locator('#explain-panel').getByLabel('Table').inputValue(), 'orders')
    await page.getByLabel('Service key').fill(walcast.anon_key)
    await page.getByRole('button', { name: 'Ask' }).click()
    const notice = page.locator('.answer .notice')
    await notice.waitFor()
    assert.match(await notice.textContent(), /^Unauthorized .*service_role.*with the service key/)
  })

  test('in `walcast dev` it is connected at once, as whom the link says, and offers the demo’s table', async () => {
    const page = await context.newPage()
    await page.goto(`${walcast.url}/inspector#as=ben`)
    await isConnected(page)
    assert.match(await page.locator('.bearer').textContent(), /role authenticated · sub bbbbbbbb-/)
    assert.equal(await page.locator('#topic').inputValue(), 'notes')
    await page.locator('#join-form').getByRole('button', { name: 'Join', exact: true }).click()
    await card(page, 'notes', 'joined').waitFor()
    await walcast.sql(`insert into public.messages (user_id, body, is_private) values ('bbbbbbbb-0000-4000-8000-000000000002', 'mine', true)`)
    await line(page, 'mine').waitFor()

    // As somebody else, on the same channels.
    await page.locator('#as').selectOption('anon')
    await page.locator('.bearer', { hasText: 'role anon' }).waitFor()
    await card(page, 'notes', 'joined').waitFor()
    await walcast.sql(`insert into public.messages (user_id, body, is_private) values ('bbbbbbbb-0000-4000-8000-000000000002', 'hidden', true)`)
    await walcast.sql(`insert into public.messages (user_id, body) values ('bbbbbbbb-0000-4000-8000-000000000002', 'shown')`)
    await line(page, 'shown').waitFor()
    assert.equal(await line(page, 'hidden').count(), 0)
    assert.ok(await page.getByRole('link', { name: 'Demo' }).isVisible())
  })
})

describe('the addresses of the inspector', () => {
  test('the former ones lead to it with their query', async () => {
    for (const path of ['/inspector', '/inspector/new']) {
      const answer = await fetch(`${node.url}${path}?url=x&as=ben`, { redirect: 'manual' })
      assert.equal(answer.status, 302)
      assert.equal(new URL(answer.headers.get('location'), `${node.url}${path}`).href, `${node.url}/?url=x&as=ben`)
    }
  })

  test('every file allows the page nothing but its own server', async () => {
    for (const path of ['/', '/inspector/app.js', '/inspector/theme.css', '/inspector/vendor/realtime.js', '/inspector/vendor/LICENSES.txt']) {
      const answer = await fetch(node.url + path)
      assert.equal(answer.status, 200, path)
      const policy = answer.headers.get('content-security-policy')
      assert.match(policy, /default-src 'none'/)
      assert.doesNotMatch(policy, /unsafe|\*|http/)
      assert.equal(answer.headers.get('x-content-type-options'), 'nosniff')
      const again = await fetch(node.url + path, { headers: { 'if-none-match': answer.headers.get('etag') } })
      assert.equal(again.status, 304, path)
    }
  })

  test('a server hands out no keys', async () => {
    const settings = await (await fetch(`${node.url}/inspector/settings`)).json()
    assert.deepEqual(settings, { identities: [], service_key: null, example: null })
  })

  test('`walcast dev` hands out the service key by a name of this machine alone', async () => {
    const asked = (host) =>
      new Promise((resolve, reject) => {
        get(`${walcast.url}/inspector/settings`, { headers: { host } }, async (answer) => {
          resolve(JSON.parse(Buffer.concat(await answer.toArray())).service_key)
        }).on('error', reject)
      })
    assert.equal(await asked(`localhost:${walcast.port}`), walcast.service_key)
    assert.equal(await asked(`rebound.example:${walcast.port}`), null)
  })

  test('WALCAST_INSPECTOR=false leaves nothing there', async () => {
    const bare = await Node.start(walcast, null, { WALCAST_INSPECTOR: 'false' })
    try {
      for (const path of ['/', '/inspector', '/inspector/app.js']) assert.equal((await fetch(bare.url + path)).status, 404)
    } finally {
      await bare.stop()
    }
  })
})
