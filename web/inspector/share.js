// What a link to this page says: whose server, which channels, but never a key.

/**
 * The state in the address: `{ url, as, channels }`. The fragment wins over the query; it is not sent to the server.
 * What is no channel is left out.
 */
export function fromAddress(address = location) {
  const query = new URLSearchParams(address.search)
  const fragment = new URLSearchParams(address.hash.slice(1))
  const first = (name) => fragment.get(name) ?? query.get(name)
  const channels = fragment.has('channel') ? fragment.getAll('channel') : query.getAll('channel')
  return { url: first('url'), as: first('as'), channels: channels.map(channelFrom).filter(Boolean) }
}

/** Puts the state into the address, without a new entry in the history. */
export function toAddress({ url, as, channels }) {
  const fragment = new URLSearchParams()
  if (url) fragment.set('url', url)
  if (as) fragment.set('as', as)
  for (const channel of channels) fragment.append('channel', JSON.stringify(sparse(channel)))
  const text = fragment.toString()
  history.replaceState(null, '', text ? `#${text}` : location.pathname)
}

/** All settings of a channel, from those that are given. */
export function complete({ topic, private: isPrivate, broadcast, presence, postgres_changes }) {
  return {
    topic,
    private: isPrivate === true,
    broadcast: { self: broadcast?.self === true, ack: broadcast?.ack === true },
    presence: { enabled: presence?.enabled === true, key: typeof presence?.key === 'string' ? presence.key : '' },
    postgres_changes: Array.isArray(postgres_changes) ? postgres_changes.map(binding).filter(Boolean) : [],
  }
}

function channelFrom(text) {
  try {
    const channel = JSON.parse(text)
    return typeof channel?.topic === 'string' && channel.topic ? complete(channel) : null
  } catch {
    return null
  }
}

function binding(entry) {
  if (!entry || typeof entry !== 'object') return null
  const { event, schema, table, filter, select } = entry
  const given = { event: typeof event === 'string' ? event : '*' }
  for (const [name, value] of Object.entries({ schema, table, filter })) if (typeof value === 'string') given[name] = value
  if (Array.isArray(select)) given.select = select.filter((column) => typeof column === 'string')
  return given
}

/** Without what is off anyway. */
function sparse({ topic, private: isPrivate, broadcast, presence, postgres_changes }) {
  const channel = { topic }
  if (isPrivate) channel.private = true
  if (broadcast.self || broadcast.ack) channel.broadcast = broadcast
  if (presence.enabled) channel.presence = presence
  if (postgres_changes.length) channel.postgres_changes = postgres_changes
  return channel
}
