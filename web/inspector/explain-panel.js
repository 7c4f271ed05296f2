// The question why a row does not arrive or a channel is refused, and its answer check by check.

import { bindingFields } from './binding-fields.js'
import { bindingWords } from './channel-list.js'
import { element } from './element.js'
import { explain, verdict } from './explain.js'
import { keep, kept } from './keys.js'
import { noticeView, remedyView } from './notice-view.js'
import { readObject } from './payload-field.js'

const WHAT = {
  row: { yes: 'receives this row', no: 'does not receive this row' },
  channel: { yes: 'may join this channel', no: 'may not join this channel' },
}
const MARKS = new Map([[true, ['passed', '✓']], [false, ['failed', '✗']], [null, ['unknown', '?']]])

export class ExplainPanel {
  #form
  #answer
  #fields = bindingFields({ table: '' })
  #connected = null
  #topic = null

  constructor(panel) {
    this.#form = panel.querySelector('form')
    this.#answer = panel.querySelector('.answer')
    this.#form.querySelector('.asked-binding').append(this.#fields.node)
    const { about, who, service } = this.#form.elements
    service.value = kept('service')
    for (const choice of [...about, ...who]) choice.addEventListener('change', () => this.#showChosen())
    this.#form.elements.binding.addEventListener('change', ({ target }) => {
      const chosen = this.bindings?.[Number(target.value)]
      if (chosen) this.#fields.write(chosen)
    })
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      this.#ask()
    })
    this.#showChosen()
    this.choose(null)
  }

  /** What the connection gives: `{ api, token }`. */
  set connected(connected) {
    this.#connected = connected
  }

  /** A service key that the server hands out, in `walcast dev` alone. */
  set serviceKey(key) {
    this.#form.elements.service.value ||= key
  }

  choose(channel) {
    this.bindings = channel?.settings.postgres_changes ?? []
    const select = this.#form.elements.binding
    select.closest('.field').hidden = this.bindings.length < 2
    select.replaceChildren(...this.bindings.map((binding, i) => element('option', { value: i }, bindingWords(binding))))
    if (this.bindings.length) this.#fields.write(this.bindings[0])
    this.#topic = channel?.settings.topic
    if (!channel) return
    const { about, topic } = this.#form.elements
    topic.value = channel.settings.topic
    about.value = this.bindings.length || !channel.settings.private ? 'row' : 'channel'
    this.#showChosen()
  }

  focus() {
    const { about, topic, key } = this.#form.elements
    if (about.value === 'row') key.focus()
    else topic.focus()
  }

  #showChosen() {
    for (const choice of ['about', 'who']) {
      const { value } = this.#form.elements[choice]
      for (const part of this.#form.querySelectorAll(`[data-${choice}]`)) part.hidden = part.dataset[choice] !== value
    }
  }

  /** The body of the request, or null where something is missing, which is then said. */
  #question() {
    const { about, topic, who, token, claims, key } = this.#form.elements
    const question = {}
    if (about.value === 'channel') {
      Object.assign(question, { topic: topic.value.trim(), private: true })
      if (!question.topic) return this.#refuse('The topic is missing.', topic)
    } else {
      question.postgres_changes = this.#fields.read()
      // It matters for tokens that are bound to topics.
      if (this.#topic) question.topic = this.#topic
    }
    if (who.value === 'claims') {
      question.claims = readObject(claims)
      if (!question.claims) return null
    } else {
      question.token = who.value === 'token' ? token.value.replace(/\s/g, '') : this.#connected.token
      if (!question.token) return this.#refuse('The user’s token is missing.', token)
    }
    if (about.value === 'row' && key.value.trim()) {
      question.key = readObject(key)
      if (!question.key) return null
    }
    return question
  }

  async #ask() {
    const service = this.#form.elements.service.value.replace(/\s/g, '')
    if (!this.#connected) return this.#refuse('Connect first.')
    if (!service) return this.#refuse('The service key is missing.', this.#form.elements.service)
    const question = this.#question()
    if (!question) return
    keep('service', service)
    this.#answer.setAttribute('aria-busy', 'true')
    try {
      this.#show(await explain(this.#connected.api, service, question))
    } catch ({ code = null, message, remedy = null }) {
      this.#answer.replaceChildren(noticeView({ level: 'error', code, sentence: message, remedy }))
    } finally {
      this.#answer.removeAttribute('aria-busy')
      this.#answer.firstElementChild.scrollIntoView({ block: 'nearest' })
    }
  }

  #refuse(sentence, control) {
    this.#answer.replaceChildren(noticeView({ level: 'error', code: null, sentence, remedy: null }))
    control?.focus()
    return null
  }

  #show(answer) {
    const checks = answer.checks ?? []
    const parts = [
      element('p', { class: 'verdict', 'data-visible': String(answer.visible) }, verdict({ ...answer, checks }, WHAT[this.#form.elements.about.value])),
      answer.judged_as ? element('p', { class: 'hint' }, `Judged as ${answer.judged_as}, in the order of delivery.`) : null,
      element('ol', { class: 'checks' }, checks.map(checkView)),
      ...(answer.policies?.length ? [element('h3', {}, 'Policies'), element('ul', { class: 'policies' }, answer.policies.map(policyView))] : []),
    ]
    this.#answer.replaceChildren(...parts.filter(Boolean))
  }
}

function mark(passed) {
  const [word, sign] = MARKS.get(passed ?? null)
  return element('span', { class: 'mark-of', 'data-result': word, role: 'img', 'aria-label': word }, sign)
}

function checkView({ check, passed, detail, remedy }) {
  const name = element('strong', {}, check.replaceAll('_', ' '))
  const words = element('div', {}, name, ' ', element('span', {}, detail), remedy ? remedyView(remedy) : null)
  return element('li', { 'data-check': check }, mark(passed), words)
}

function policyView({ name, kind, roles, using, result, decided, raised }) {
  const facts = [kind, `to ${(roles ?? []).join(', ')}`, decided === 'compiled' ? 'decided here' : decided === 'asked' ? 'Postgres was asked' : null]
  return element(
    'li',
    {},
    mark(result),
    element(
      'div',
      {},
      element('strong', {}, name),
      ' ',
      element('span', { class: 'facts-line' }, facts.filter(Boolean).join(' · ')),
      using ? element('pre', { tabindex: '0', 'aria-label': `Expression of ${name}` }, using) : null,
      raised ? element('p', { class: 'remedy' }, `It raised: ${raised}`) : null,
    ),
  )
}
