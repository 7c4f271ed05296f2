// Makes realtime.js: the client as one ES module, from the packages that package-lock.json names.

import { build } from 'esbuild'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('.', import.meta.url))
const packages = [
  ['@supabase/realtime-js', 'LICENSE'],
  ['@supabase/phoenix', 'LICENSE.md'],
]

/** The bundle and the licenses of what is in it, as text. */
export async function bundle() {
  const { outputFiles, metafile } = await build({
    stdin: { contents: `export { RealtimeClient } from '@supabase/realtime-js'`, resolveDir: folder },
    absWorkingDir: folder,
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    legalComments: 'none',
    metafile: true,
    write: false,
  })
  const inside = new Set(Object.keys(metafile.inputs).map(packageOf).filter(Boolean))
  const licensed = []
  for (const [name, file] of packages) {
    if (!inside.delete(name)) continue
    const root = join(folder, 'node_modules', name)
    const { version, license } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
    const text = await readFile(join(root, file), 'utf8')
    licensed.push({ title: `${name} ${version} (${license})`, text: text.trim() })
  }
  if (inside.size) throw new Error(`whose license is missing in bundle.mjs: ${[...inside].join(', ')}`)
  const header = `// ${licensed.map(({ title }) => title).join(', ')}; see LICENSES.txt. Made by bundle.mjs.\n`
  return {
    'realtime.js': header + outputFiles[0].text,
    'LICENSES.txt': licensed.map(({ title, text }) => `${title}\n\n${text}\n`).join('\n\n'),
  }
}

function packageOf(path) {
  return /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1]
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, text] of Object.entries(await bundle())) await writeFile(join(folder, name), text)
}
