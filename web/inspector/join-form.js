// The form that joins a channel.

import { bindingFields } from './binding-fields.js'
import { element } from './element.js'
import { complete } from './share.js'

export class JoinForm {
  #form
  #bindings = []

  /** `join` is given the settings; a sentence it returns says why they will not do. */
  constructor(form, join) {
    this.#form = form
    this.list = form.querySelector('.bindings')
    form.querySelector('.add-binding').addEventListener('click', () => this.#add({}).node.querySelector('.field-table input').focus())
    form.elements.presence.addEventListener('change', () => this.#showKey())
    form.addEventListener('submit', (event) => {
      event.preventDefault()
      const problem = join(this.read())
      const told = form.querySelector('.problem')
      told.textContent = problem ?? ''
      told.hidden = !problem
      if (!problem) this.#empty()
    })
    this.#showKey()
  }

  /** Fills the form in, for a beginning. */
  write({ topic, postgres_changes }) {
    this.#form.elements.topic.value = topic
    for (const binding of postgres_changes) this.#add(binding)
  }

  read() {
    const { topic, private: isPrivate, self, ack, presence, key } = this.#form.elements
    return complete({
      topic: topic.value.trim(),
      private: isPrivate.checked,
      broadcast: { self: self.checked, ack: ack.checked },
      presence: { enabled: presence.checked, key: presence.checked ? key.value.trim() : '' },
      postgres_changes: this.#bindings.map(({ read }) => read()),
    })
  }

  focus() {
    this.#form.elements.topic.focus()
  }

  /** The next channel is another one. */
  #empty() {
    this.#form.reset()
    this.#bindings = []
    this.list.replaceChildren()
    this.#showKey()
  }

  #showKey() {
    this.#form.querySelector('.presence-key').hidden = !this.#form.elements.presence.checked
  }

  #add(values) {
    const binding = bindingFields(values)
    const remove = element('button', { type: 'button', class: 'quiet' }, 'Remove')
    const set = element('fieldset', {}, element('legend', {}, 'Row changes'), binding.node, remove)
    remove.addEventListener('click', () => {
      this.#bindings.splice(this.#bindings.indexOf(binding), 1)
      set.remove()
      this.#form.querySelector('.add-binding').focus()
    })
    this.#bindings.push(binding)
    this.list.append(set)
    return binding
  }
}
