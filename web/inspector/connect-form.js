// The form with URL and key, which steps back once there is a connection.

import { addresses, home } from './address.js'
import { element } from './element.js'
import { keep, kept } from './keys.js'
import { describeToken } from './token.js'

const STATES = {
  closed: 'not connected',
  connecting: 'connecting',
  open: 'connected',
  lost: 'connection lost',
  refused: 'refused',
}

export class ConnectForm {
  #form
  #identities = []

  /** `connect` is given `{ addresses, key, token, as }`, `disconnect` nothing. */
  constructor(form, { connect, disconnect }) {
    this.#form = form
    this.connect = connect
    const { url, key, token, as } = form.elements
    url.placeholder = home
    key.value = kept('key')
    token.value = kept('token')
    for (const input of [key, token]) input.addEventListener('input', () => this.#describe())
    as.addEventListener('change', () => {
      this.#become(as.value)
      if (as.value) this.submit()
    })
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.submit()
    })
    form.querySelector('.disconnect').addEventListener('click', disconnect)
    this.#describe()
  }

  get hasKey() {
    return this.#form.elements.key.value.trim() !== ''
  }

  /** Who one can be, where the server hands out keys: `[{ id, name, key }]`; and who one begins as. */
  offer(identities, as) {
    this.#identities = identities
    if (identities.length === 0) return
    const { as: select } = this.#form.elements
    select.replaceChildren(
      ...identities.map(({ id, name }) => element('option', { value: id }, name)),
      element('option', { value: '' }, 'a key of my own'),
    )
    this.#form.querySelector('.identities').hidden = false
    select.value = identities.some(({ id }) => id === as) ? as : identities[0].id
    this.#become(select.value)
  }

  set url(url) {
    this.#form.elements.url.value = url ?? ''
  }

  submit() {
    const { url, key, token, as } = this.#form.elements
    this.problem('')
    let target
    try {
      target = addresses(url.value.trim() || home)
    } catch (error) {
      return this.problem(error.message, error.elsewhere)
    }
    const [bare, user] = [key.value, token.value].map((text) => text.replace(/\s/g, ''))
    if (!bare) {
      key.focus()
      return this.problem('A key is needed: the project’s anon key, or the token of a user.')
    }
    // What the server hands out anyway need not be kept.
    keep('key', as.value ? '' : bare)
    keep('token', as.value ? '' : user)
    this.connect({ addresses: target, url: url.value.trim(), key: bare, token: user, as: as.value })
  }

  /** Says what is wrong; `elsewhere` is where the inspector of that server is. */
  problem(sentence, elsewhere) {
    const told = this.#form.querySelector('.problem')
    told.replaceChildren(sentence)
    if (elsewhere) told.append(' ', element('a', { href: elsewhere }, `Open the inspector of ${new URL(elsewhere).host}`))
    told.hidden = !sentence
  }

  /** Shows the state of the connection. */
  show({ status, reason, roundtrip_ms, token }) {
    const isUp = status === 'open' || status === 'connecting' || status === 'lost'
    this.#form.classList.toggle('connected', isUp)
    this.#form.querySelector('.disconnect').hidden = !isUp
    this.#form.querySelector('.connect').hidden = isUp
    this.#form.querySelector('.bearer').textContent = isUp ? describeToken(token) : ''
    const state = document.querySelector('.connection-state')
    state.dataset.status = status
    const trip = status === 'open' && roundtrip_ms !== null ? ` · ${Math.round(roundtrip_ms)} ms round trip` : ''
    state.textContent = `${STATES[status]}${trip}`
    state.title = trip ? 'The round trip of the last heartbeat' : ''
    if (status === 'refused') this.problem(`The server refuses the connection: ${reason}.`)
    else if (status === 'lost') this.problem(`The connection is lost: ${reason}.`)
    else if (status === 'open') this.problem('')
  }

  focus() {
    this.#form.elements.key.focus()
  }

  #become(id) {
    const { key, token } = this.#form.elements
    const identity = this.#identities.find((one) => one.id === id)
    this.#form.querySelector('.own-key').hidden = identity !== undefined
    key.value = identity?.key ?? kept('key')
    token.value = identity ? '' : kept('token')
    this.#describe()
  }

  #describe() {
    const { key, token } = this.#form.elements
    const said = this.#form.querySelector('.described')
    const text = token.value.trim() || key.value.trim()
    said.textContent = text ? describeToken(text) : ''
  }
}
