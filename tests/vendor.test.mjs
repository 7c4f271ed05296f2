// The client that is embedded in the binary is what its lock file names, and nothing else.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { project } from './walcast.mjs'

const folder = join(project, 'web/inspector/vendor')

before(() => execFileSync(join(project, 'scripts/provide-node-packages'), ['web/inspector/vendor'], { stdio: ['ignore', 'ignore', 'inherit'] }))

test('realtime.js and its licenses are made anew, byte by byte', async () => {
  const { bundle } = await import(join(folder, 'bundle.mjs'))
  const made = await bundle()
  assert.deepEqual(Object.keys(made).sort(), ['LICENSES.txt', 'realtime.js'])
  for (const [name, text] of Object.entries(made)) {
    assert.ok(text === (await readFile(join(folder, name), 'utf8')), `${name} differs; in web/inspector/vendor: npm ci && npm run build`)
  }
})

test('every file of the inspector is embedded', async () => {
  const source = await readFile(join(project, 'crates/server/src/inspector.rs'), 'utf8')
  const beside = (await readdir(join(project, 'web/inspector'))).filter((name) => name.includes('.'))
  const embedded = [...beside, 'vendor/realtime.js', 'vendor/LICENSES.txt']
  for (const path of embedded) assert.ok(source.includes(path === 'index.html' ? `/${path}"` : `"${path}"`), path)
})
