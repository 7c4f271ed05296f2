// The channels that are joined or were asked for, each with its state and what the server says about it.

import { element } from './element.js'
import { noticeView } from './notice-view.js'

const TROUBLE = {
  refused: 'refused, trying again',
  unanswered: 'no answer, trying again',
  lost: 'connection lost, joining again',
  closed: 'closed by the server',
}

export class ChannelList {
  #list
  #cards = new Map()

  /** `actions` are `leave`, `rejoin`, `choose` and `askWhy`, each given a channel. */
  constructor(list, actions) {
    this.#list = list
    this.actions = actions
  }

  add(channel) {
    const { topic } = channel.settings
    const button = (name, label, properties) => {
      const node = element('button', { type: 'button', ...properties }, label)
      node.addEventListener('click', () => this.actions[name](channel))
      return node
    }
    const card = {
      node: element('li', { class: 'channel', 'data-topic': topic }),
      choose: button('choose', topic, { class: 'choose', 'aria-pressed': 'false' }),
      state: element('span', { class: 'state', role: 'status' }),
      rejoin: button('rejoin', 'Join again', { class: 'quiet', 'aria-label': `Join ${topic} again` }),
      notices: element('div', { class: 'notices' }),
      shown: null,
    }
    card.node.append(
      element('div', { class: 'channel-head' }, card.choose, card.state),
      element('ul', { class: 'traits' }, traits(channel.settings).map((trait) => element('li', {}, trait))),
      card.notices,
      element(
        'div',
        { class: 'channel-actions' },
        card.rejoin,
        channel.settings.postgres_changes.length || channel.settings.private
          ? button('askWhy', 'Why not?', { class: 'quiet', 'aria-label': `Why not? About ${topic}` })
          : null,
        button('leave', 'Leave', { class: 'quiet', 'aria-label': `Leave ${topic}` }),
      ),
    )
    this.#cards.set(channel, card)
    this.#list.append(card.node)
    channel.addEventListener('change', () => this.#draw(channel))
    this.#draw(channel)
  }

  remove(channel) {
    this.#cards.get(channel)?.node.remove()
    this.#cards.delete(channel)
  }

  /** Marks the one that the tools are for. */
  mark(chosen) {
    for (const [channel, { node, choose }] of this.#cards) {
      node.classList.toggle('chosen', channel === chosen)
      choose.setAttribute('aria-pressed', String(channel === chosen))
    }
  }

  #draw(channel) {
    const card = this.#cards.get(channel)
    if (!card) return
    card.node.dataset.status = channel.status
    card.state.textContent = TROUBLE[channel.status] ?? channel.status
    card.rejoin.hidden = channel.status !== 'closed'
    if (card.shown === channel.notices) return
    card.shown = channel.notices
    card.notices.replaceChildren(...channel.notices.map(noticeView))
  }
}

function traits({ private: isPrivate, broadcast, presence, postgres_changes }) {
  return [
    isPrivate ? 'private' : 'public',
    broadcast.self && 'self',
    broadcast.ack && 'ack',
    presence.enabled && (presence.key ? `presence as ${presence.key}` : 'presence'),
    ...postgres_changes.map(bindingWords),
  ].filter(Boolean)
}

/** A binding on one line. */
export function bindingWords({ event, schema, table, filter, select }) {
  const where = `${schema ?? 'public'}.${table ?? '*'}`
  const what = select?.length ? ` (${select.join(', ')})` : ''
  return `${event === '*' ? 'all of' : event} ${where}${what}${filter ? ` where ${filter}` : ''}`
}
