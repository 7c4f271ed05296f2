// The page of `walcast dev` in a real browser.

import assert from 'node:assert/strict'
import { after, afterEach, before, beforeEach, describe, test } from 'node:test'
import { launch, skip } from './browser.mjs'
import { Walcast } from './walcast.mjs'

describe('the page', { skip }, () => {
  let browser, walcast, page, trouble
  before(async () => {
    walcast = await Walcast.start()
    browser = await launch()
  })
  after(async () => {
    await browser?.close()
    await walcast?.stop()
  })
  beforeEach(async () => {
    trouble = []
    page = await browser.newPage({ viewport: { width: 1280, height: 860 } })
    page.on('pageerror', (error) => trouble.push(error.message))
    page.on('request', (request) => {
      const { protocol, origin } = new URL(request.url())
      if (protocol !== 'data:' && origin !== walcast.url) trouble.push(`a request to ${request.url()}`)
    })
  })
  afterEach(async () => {
    await page.close()
    await walcast.sql('truncate public.messages')
    assert.deepEqual(trouble, [])
  })

  const pane = (name) => page.locator(`[data-pane=${name}]`)
  const note = (name, text) => pane(name).locator('[data-note]', { hasText: text })

  async function open() {
    await page.goto(walcast.url)
    for (const name of ['ada', 'ben', 'visitor']) await pane(name).locator('[data-status=SUBSCRIBED]').waitFor()
  }

  async function write(name, text, { secret = false } = {}) {
    await pane(name).locator('[name=body]').fill(text)
    await pane(name).locator('[name=private]').setChecked(secret)
    await pane(name).locator('[name=body]').press('Enter')
  }

  test('a shared note appears with everybody, with the time it took', async () => {
    await open()
    await write('ada', 'Good morning')
    for (const [name, writer] of [['ada', 'you'], ['ben', 'Ada'], ['visitor', 'Ada']]) {
      await note(name, 'Good morning').waitFor()
      assert.equal(await note(name, 'Good morning').locator('.writer').textContent(), writer)
      assert.match(await note(name, 'Good morning').locator('.event').textContent(), /^insert · \d+ ms$/)
    }
    assert.equal(await pane('ada').locator('[name=body]').inputValue(), '')
  })

  test('a private note stays with its writer', async () => {
    await open()
    await write('ada', 'Mine alone', { secret: true })
    await note('ada', 'Mine alone').waitFor()
    await write('ben', 'For all')
    // Changes come in order, so whoever has this one was not sent the one before.
    for (const name of ['ada', 'ben', 'visitor']) await note(name, 'For all').waitFor()
    assert.equal(await note('ben', 'Mine alone').count(), 0)
    assert.equal(await note('visitor', 'Mine alone').count(), 0)
    assert.ok(await note('ada', 'Mine alone').locator('.lock').isVisible())
  })

  test('a note is changed in place and deleted, by the keyboard alone', async () => {
    await open()
    await write('ben', 'Frist')
    await note('ada', 'Frist').waitFor()
    await note('ben', 'Frist').locator('.edit').focus()
    await page.keyboard.press('Enter')
    await page.keyboard.press('ControlOrMeta+a')
    await page.keyboard.type('First')
    await page.keyboard.press('Enter')
    await note('ada', 'First').waitFor()
    assert.match(await note('ada', 'First').locator('.event').textContent(), /^update · \d+ ms$/)
    assert.equal(await note('ada', 'Frist').count(), 0)

    await note('ben', 'First').waitFor()
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    for (const name of ['ada', 'ben', 'visitor']) await note(name, 'First').waitFor({ state: 'detached' })
  })

  test('Escape leaves a note as it was', async () => {
    await open()
    await write('ada', 'Stays')
    await note('ada', 'Stays').locator('.edit').click()
    await page.keyboard.type('Something else')
    await page.keyboard.press('Escape')
    assert.equal(await note('ada', 'Stays').locator('.body').textContent(), 'Stays')
    assert.equal(await note('ada', 'Stays').locator('input').count(), 0)
  })

  test('nobody is offered to change the notes of others', async () => {
    await open()
    await write('ada', 'Hers')
    await note('ben', 'Hers').waitFor()
    await note('ben', 'Hers').hover()
    assert.equal(await note('ben', 'Hers').locator('.edit').isVisible(), false)
    await note('ada', 'Hers').hover()
    assert.equal(await note('ada', 'Hers').locator('.edit').isVisible(), true)
    assert.equal(await pane('visitor').locator('form').count(), 0)
  })

  test('it begins with the notes there are; HTML in them is text', async () => {
    await walcast.sql(
      `insert into public.messages (user_id, body) values (gen_random_uuid(), '<img src=x onerror=alert(1)>')`,
    )
    await open()
    await note('visitor', '<img src=x onerror=alert(1)>').waitFor()
    assert.equal(await page.locator('main img').count(), 0)
  })

  test('it shows a lost connection, and after the return what was missed', async () => {
    await open()
    await write('ada', 'Before')
    await note('ben', 'Before').waitFor()
    const lost = Promise.all(
      ['ada', 'ben', 'visitor'].map((name) => pane(name).locator('.status:not([data-status=SUBSCRIBED])').waitFor()),
    )
    await walcast.crashAndRestart()
    await lost
    await walcast.sql(`delete from public.messages where body = 'Before'`)
    await walcast.sql(`insert into public.messages (user_id, body) values (gen_random_uuid(), 'Missed')`)
    for (const name of ['ada', 'ben', 'visitor']) {
      await note(name, 'Missed').waitFor()
      await note(name, 'Before').waitFor({ state: 'detached' })
    }
    assert.equal(await page.locator('.status[data-status=SUBSCRIBED]').count(), 3)
  })

  test('on a telephone nothing is cut off', async () => {
    await page.setViewportSize({ width: 400, height: 800 })
    await open()
    await write('ada', 'w'.repeat(300))
    await note('ben', 'www').waitFor()
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 400)
  })

  test('each pane leads to the inspector as the one whose pane it is', async () => {
    await open()
    for (const [name, as] of [['ada', 'ada'], ['ben', 'ben'], ['visitor', 'anon']]) {
      assert.equal(await pane(name).locator('.inspect').getAttribute('href'), `/inspector#as=${as}`)
    }
    await page.getByRole('link', { name: 'The inspector' }).click()
    await page.locator('.connection-state[data-status=open]').waitFor()
  })

  test('without supabase-js it says what to do', async () => {
    await page.route('**/dev/supabase.js', (route) => route.fulfill({ status: 404 }))
    await page.goto(walcast.url)
    await page.getByRole('alert').waitFor()
    assert.match(await page.getByRole('alert').textContent(), /^supabase-js is not installed here.*npm ci/)
    assert.equal(await page.locator('[data-pane]').count(), 0)
  })
})
