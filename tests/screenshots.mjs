// Makes the pictures of the inspector that the docs show: node tests/screenshots.mjs

import { join } from 'node:path'
import { launch } from './browser.mjs'
import { project, Walcast } from './walcast.mjs'

const BEN = 'bbbbbbbb-0000-4000-8000-000000000002'
/** What Ben writes, while Ada moves. */
const NOTES = ['Good morning', 'Tea is ready', 'The parcel has come', 'Who has the ladder?', 'I do, in the shed', 'Back by noon']

/** A page of the demo's user, present on the channel of notes. */
async function enter(name, payload, colorScheme) {
  const page = await browser.newPage({ viewport: { width: 1440, height: 980 }, colorScheme })
  await page.goto(`${walcast.url}/inspector#as=${name.toLowerCase()}`)
  await page.locator('.connection-state[data-status=open]').waitFor()
  for (const option of ['presence', 'self', 'ack']) await page.locator(`#join-form [name=${option}]`).check()
  await page.locator('#presence-key').fill(name)
  await page.getByRole('button', { name: 'Join', exact: true }).click()
  await page.locator('[data-topic=notes][data-status=joined]').waitFor()
  await page.getByRole('tab', { name: 'Presence' }).click()
  await page.locator('#track-payload').fill(JSON.stringify(payload))
  await page.getByRole('button', { name: 'Track', exact: true }).click()
  await page.locator(`.present [data-key=${name}]`).waitFor()
  return page
}

const walcast = await Walcast.start()
const browser = await launch()
try {
  for (const colorScheme of ['light', 'dark']) {
    const ben = await enter('Ben', { mood: 'busy' }, colorScheme)
    const page = await enter('Ada', { mood: 'curious' }, colorScheme)
    await page.locator('#topic').fill('board')
    await page.locator('#join-form [name=private]').check()
    await page.getByRole('button', { name: 'Join', exact: true }).click()
    await page.locator('[data-topic=board][data-status=refused]').waitFor()
    await page.getByRole('button', { name: 'notes', exact: true }).click()
    await page.getByRole('tab', { name: 'Send' }).click()
    await page.locator('#send-event').fill('cursor')
    for (const [i, note] of NOTES.entries()) {
      await page.locator('#send-payload').fill(`{ "x": ${312 + 37 * i}, "y": ${96 + 11 * i} }`)
      await walcast.sql('insert into public.messages (user_id, body) values ($1, $2)', [BEN, note])
      await page.locator('.line', { hasText: note }).waitFor()
      await page.getByRole('button', { name: 'Send', exact: true }).click()
      await page.getByText(/^Acknowledged/).waitFor()
      // The plot has a bar a second.
      const second = Math.floor(Date.now() / 1000)
      await page.waitForFunction((second) => Math.floor(Date.now() / 1000) > second, second)
    }
    await page.getByRole('tab', { name: 'Presence' }).click()
    await page.locator('.line', { hasText: NOTES.at(-1) }).click()
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    await page.evaluate(() => {
      document.activeElement.blur()
      scrollTo(0, 0)
    })
    await page.screenshot({ path: join(project, `docs/images/inspector-${colorScheme}.png`) })
    await page.close()
    await ben.close()
  }
} finally {
  await browser.close()
  await walcast.stop()
}
