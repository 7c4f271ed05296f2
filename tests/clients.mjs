// The supabase-js of applications: the newest, and one from early 2025 with the older serializer.

import { createClient as createNewest } from '@supabase/supabase-js'
import { createClient as createOld } from 'supabase-js-old'
import { createRequire } from 'node:module'
import { after } from 'node:test'
import ws from 'ws'
import { Inbox } from './inbox.mjs'

const require = createRequire(import.meta.url)
const versionOf = (name) => require(`${name}/package.json`).version

export const newest = {
  name: `supabase-js ${versionOf('@supabase/supabase-js')}`,
  create: createNewest,
  // Node 20 has no WebSocket of its own.
  realtime: { transport: ws },
}
export const old = {
  name: `supabase-js ${versionOf('supabase-js-old')}`,
  create: createOld,
  // It loads ws by itself, and never listens to a transport that it is given.
  realtime: {},
}
export const kinds = [newest, old]
/** The newest on the older serializer, which an application can ask for. */
export const newestOn1 = {
  ...newest,
  name: `${newest.name} on vsn 1.0.0`,
  realtime: { ...newest.realtime, vsn: '1.0.0' },
}

const opened = []
after(() =>
  Promise.all(
    opened.map(async (client) => {
      await client.removeAllChannels()
      client.realtime.disconnect()
    }),
  ),
)

/**
 * A client with the anonymous key. `session` is that of a signed-in user; its `token` is asked for when needed.
 * `realtime` holds more options of its socket.
 */
export function connect(kind, walcast, session, realtime = {}) {
  const client = kind.create(walcast.url, walcast.anon_key, {
    realtime: { ...kind.realtime, ...realtime },
    ...(session
      ? { accessToken: async () => session.token }
      : { auth: { persistSession: false, autoRefreshToken: false, detectSessionInUrl: false } }),
  })
  opened.push(client)
  return client
}

/** As `connect`, when the token of the session is in use. */
export async function signIn(kind, walcast, token) {
  const client = connect(kind, walcast, { token })
  await client.realtime.setAuth()
  return client
}

/** Subscribes a channel to bindings of changes, and to every broadcast; what arrives is in its inboxes. */
export function listen(client, topic, bindings, config = {}) {
  const heard = {
    broadcasts: new Inbox(`broadcast on ${topic}`),
    changes: new Inbox(`change on ${topic}`),
    systems: new Inbox(`system message on ${topic}`),
    statuses: new Inbox(`status of ${topic}`),
  }
  heard.channel = client.channel(topic, { config })
  bindings.forEach((binding, index) => {
    heard.channel.on('postgres_changes', { schema: 'public', ...binding }, (change) => {
      heard.changes.push({ binding: index, ...change })
    })
  })
  heard.channel.on('broadcast', { event: '*' }, (message) => heard.broadcasts.push(message))
  heard.channel.on('system', {}, (message) => heard.systems.push(message))
  heard.subscribe = () => heard.channel.subscribe((status, error) => heard.statuses.push({ status, error }))
  return heard
}

/** As `listen`, and subscribed. */
export async function subscribe(client, topic, bindings, config) {
  const heard = listen(client, topic, bindings, config)
  heard.subscribe()
  await heard.statuses.until(({ status }) => status === 'SUBSCRIBED')
  return heard
}
