// A headless Chromium, where one is installed.

import { existsSync } from 'node:fs'
import { chromium } from 'playwright-core'

const executablePath = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
  .filter(Boolean)
  .find((path) => existsSync(path))

/** For `describe`: why tests in a browser cannot run here, or false. */
export const skip = executablePath ? false : 'Chromium is not installed (Debian: apt install chromium), nor named by CHROMIUM'

/** Starts one that asks nobody but the pages it is sent to. */
export function launch() {
  return chromium.launch({
    executablePath,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
}
