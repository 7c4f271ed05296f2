// Sends broadcasts on the chosen channel, over its socket or over HTTP.

import { readObject } from './payload-field.js'

export class SendPanel {
  #channel = null

  constructor(form) {
    this.form = form
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.#send((name, payload) => this.#channel.send(name, payload))
    })
    form.querySelector('.over-http').addEventListener('click', () =>
      this.#send((name, payload) => this.#channel.sendOverHttp(name, payload)),
    )
    // As in every place where one writes more than a line.
    form.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && (event.metaKey || event.ctrlKey)) form.requestSubmit()
    })
    this.choose(null)
  }

  choose(channel) {
    this.#channel = channel
    for (const button of this.form.querySelectorAll('button')) button.disabled = !channel
    this.#say(channel ? '' : 'Join a channel first.')
  }

  focus() {
    this.form.elements.event.focus()
  }

  async #send(send) {
    const payload = readObject(this.form.elements.payload)
    if (!payload) return
    if (this.form.elements.stamp.checked) payload.sent_at = Date.now()
    const channel = this.#channel
    this.#say('Sending…')
    const outcome = await send(this.form.elements.event.value.trim() || 'message', payload)
    if (channel === this.#channel) this.#say(outcome)
  }

  #say(sentence) {
    this.form.querySelector('.outcome').textContent = sentence
  }
}
