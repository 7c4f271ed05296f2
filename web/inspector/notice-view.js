// A refusal or warning: its code, its sentence, and the remedy ready to be copied.

import { copyButton } from './copy.js'
import { element } from './element.js'

/** An element that shows `{ level, code, sentence, remedy }`. */
export function noticeView({ level, code, sentence, remedy }) {
  return element(
    'div',
    { class: 'notice', 'data-level': level },
    element('p', {}, code ? element('code', { class: 'code' }, code) : null, code ? ' ' : null, sentence),
    remedy ? remedyView(remedy) : null,
  )
}

/** What mends it: SQL to copy, or a sentence. */
export function remedyView(remedy) {
  if (!/^(alter|create (policy|publication)|grant|revoke|drop)\b/.test(remedy)) return element('p', { class: 'remedy' }, remedy)
  const copy = copyButton(element('button', { type: 'button', class: 'quiet' }, 'Copy SQL'), () => remedy)
  return element('div', { class: 'remedy' }, element('pre', { tabindex: '0', 'aria-label': 'SQL that mends it' }, remedy), copy)
}
