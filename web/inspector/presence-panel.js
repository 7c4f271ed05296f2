// Who is on the chosen channel, and being there oneself.

import { element } from './element.js'
import { jsonView } from './json.js'
import { readObject } from './payload-field.js'

export class PresencePanel {
  #channel = null
  #shown = null
  #draw = () => this.#show()

  constructor(panel) {
    this.list = panel.querySelector('.present')
    this.summary = panel.querySelector('.present-summary')
    this.form = panel.querySelector('form')
    this.form.addEventListener('submit', async (event) => {
      event.preventDefault()
      const payload = readObject(this.form.elements.payload)
      if (payload) this.#say(await this.#channel.track(payload))
    })
    this.form.querySelector('.untrack').addEventListener('click', async () => this.#say(await this.#channel.untrack()))
    this.choose(null)
  }

  choose(channel) {
    this.#channel?.removeEventListener('change', this.#draw)
    this.#channel = channel
    channel?.addEventListener('change', this.#draw)
    for (const button of this.form.querySelectorAll('button')) button.disabled = !channel
    this.#shown = null
    this.#say('')
    this.#show()
  }

  focus() {
    this.form.elements.payload.focus()
  }

  #show() {
    const presences = this.#channel?.presences ?? {}
    const people = Object.entries(presences)
    this.summary.textContent = !this.#channel
      ? 'Join a channel first.'
      : !this.#channel.settings.presence.enabled
        ? 'This channel was joined without presence: one can be seen on it, and does not see.'
        : people.length === 0
          ? 'Nobody is here.'
          : `${people.length} ${people.length === 1 ? 'is' : 'are'} here.`
    const text = JSON.stringify(presences)
    if (text === this.#shown) return
    this.#shown = text
    this.list.replaceChildren(
      ...people.map(([key, metas]) =>
        element('li', { 'data-key': key }, element('strong', {}, key), ...metas.map((meta) => jsonView(meta, 1))),
      ),
    )
  }

  #say(sentence) {
    this.form.querySelector('.outcome').textContent = sentence
  }
}
