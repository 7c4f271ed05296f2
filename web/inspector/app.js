// The inspector put together: one connection, its channels, what they hear, and the tools for the chosen one.

import { byId } from './element.js'
import { ChannelList } from './channel-list.js'
import { Channel } from './channel.js'
import { ConnectForm } from './connect-form.js'
import { Connection } from './connection.js'
import { copyButton } from './copy.js'
import { entryOf, KINDS } from './entry.js'
import { EventList } from './event-list.js'
import { Events } from './events.js'
import { ExplainPanel } from './explain-panel.js'
import { FilterBar } from './filter-bar.js'
import { JoinForm } from './join-form.js'
import { Stopwatch } from './latency.js'
import { Plot } from './plot.js'
import { PresencePanel } from './presence-panel.js'
import { SendPanel } from './send-panel.js'
import { fromAddress, toAddress } from './share.js'
import { shortcuts } from './shortcuts.js'
import { tabs } from './tabs.js'

const events = new Events()
const plot = new Plot(byId('plot'))
const filters = new FilterBar(byId('filters'), events, KINDS)
const list = new EventList(byId('event-list'), events, (counts) => filters.tell(counts))
const send = new SendPanel(byId('send-form'))
const presence = new PresencePanel(byId('presence-panel'))
const explain = new ExplainPanel(byId('explain-panel'))
const join = new JoinForm(byId('join-form'), joinChannel)
const cards = new ChannelList(byId('channel-list'), { leave, rejoin: (channel) => channel.join(), choose, askWhy })
const form = new ConnectForm(byId('connect-form'), { connect, disconnect })
const showTool = tabs(byId('tool-tabs'))

const channels = []
/** What there is to join once there is a connection: from the link, or from the connection before. */
let wanted = []
let connection = null
let chosen = null
let shared = { url: '', as: '' }

function connect({ addresses, url, key, token, as }) {
  if (connection) disconnect()
  connection = new Connection(addresses, key, token)
  shared = { url, as }
  explain.connected = { api: addresses.api, token: connection.token }
  const here = connection
  const stopwatch = new Stopwatch()
  const show = () => here === connection && form.show(here)
  here.addEventListener('status', show)
  here.addEventListener('roundtrip', show)
  here.addEventListener('message', ({ detail }) => take(stopwatch, detail))
  here.open()
  for (const settings of wanted.splice(0)) joinChannel(settings)
  changed()
  join.focus()
}

/** Channels are kept for the next connection, which may be as somebody else. */
function disconnect() {
  if (!connection) return
  wanted = channels.map(({ settings }) => settings)
  const last = connection
  connection = null
  explain.connected = null
  for (const channel of channels.splice(0)) cards.remove(channel)
  choose(null)
  filters.offer([])
  byId('no-channels').hidden = false
  last.close()
  form.show(last)
}

function take(stopwatch, passed) {
  const { direction, message, at_ms } = passed
  if (direction === 'out') stopwatch.start(message, at_ms, hearsItself(message.topic))
  const entry = entryOf(passed, direction === 'in' ? stopwatch.stop(message, at_ms) : null)
  events.add(entry)
  if (direction === 'in' && entry.kind !== 'protocol') plot.add(entry)
}

function hearsItself(topic) {
  return channels.some(({ settings }) => `realtime:${settings.topic}` === topic && settings.broadcast.self)
}

function joinChannel(settings) {
  if (!settings.topic) return 'A channel needs a topic.'
  if (!connection) {
    wanted.push(settings)
    form.problem('Connect first; the channel is joined then.')
    form.focus()
    return null
  }
  if (channels.some((channel) => channel.settings.topic === settings.topic)) {
    return `${settings.topic} is joined already. Leave it first to join it differently.`
  }
  const channel = new Channel(connection, settings)
  channels.push(channel)
  cards.add(channel)
  channel.join()
  choose(channel)
  changed()
  return null
}

function leave(channel) {
  channels.splice(channels.indexOf(channel), 1)
  cards.remove(channel)
  if (channel === chosen) choose(channels.at(-1) ?? null)
  changed()
  channel.leave()
  join.focus()
}

function choose(channel) {
  chosen = channel
  cards.mark(channel)
  for (const tool of [send, presence, explain]) tool.choose(channel)
  byId('chosen').textContent = channel ? channel.settings.topic : 'no channel'
}

function askWhy(channel) {
  choose(channel)
  tool('explain', explain)()
}

function changed() {
  filters.offer(channels.map(({ settings }) => settings.topic))
  byId('no-channels').hidden = channels.length > 0
  toAddress({ ...shared, channels: channels.map(({ settings }) => settings) })
}

function tool(name, panel) {
  return () => {
    showTool(name)
    panel.focus()
  }
}

copyButton(byId('copy-link'), () => location.href)
const help = byId('shortcuts')
byId('show-shortcuts').addEventListener('click', () => help.showModal())
shortcuts(
  {
    '?': () => help.showModal(),
    j: () => join.focus(),
    l: () => list.focus(),
    '/': () => filters.focus(),
    p: () => filters.togglePause(),
    c: () => events.clear(),
    b: tool('send', send),
    r: tool('presence', presence),
    e: tool('explain', explain),
  },
  help,
)

async function start() {
  const { url, as, channels: linked } = fromAddress()
  wanted = linked
  form.url = url
  const settings = await (await fetch(new URL('inspector/settings', new URL('.', location.href)))).json()
  form.offer(settings.identities, as)
  if (settings.service_key) explain.serviceKey = settings.service_key
  if (settings.example && linked.length === 0) join.write(settings.example)
  byId('demo-link').hidden = settings.identities.length === 0
  if (form.hasKey) form.submit()
  else form.focus()
}

start().catch((error) => form.problem(`The page cannot start: ${error.message}`))
