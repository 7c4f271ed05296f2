// From what people type as a URL to the addresses the server answers at.

/** Where this page comes from, which is the server it may talk to. */
export const home = new URL('.', location.href).href

/**
 * The addresses behind a URL: `endpoint` for the client, `api` for HTTP, `shown` for people.
 *
 * Taken as supabase-js takes it, `https://api.example.com`; or as realtime-js does, with `/realtime/v1` or `/socket`.
 * Throws an Error with a sentence if it is none, or with `elsewhere` if it is another server's.
 */
export function addresses(typed) {
  let url
  try {
    url = new URL(typed.includes('://') ? typed : `${location.protocol}//${typed}`)
  } catch {
    throw new Error(`“${typed}” is not a URL. It is what supabase-js is given, such as ${location.origin}.`)
  }
  const isSecure = { 'http:': false, 'ws:': false, 'https:': true, 'wss:': true }[url.protocol]
  if (isSecure === undefined) throw new Error('The URL begins with http, https, ws or wss.')
  const path = url.pathname.replace(/\/+$/, '').replace(/\/websocket$/, '')
  const root = `${url.host}${path || '/realtime/v1'}`
  const http = isSecure ? 'https' : 'http'
  if (`${http}://${url.host}` !== location.origin) {
    const error = new Error('This page talks to the server it comes from and to no other.')
    error.elsewhere = `${http}://${url.host}/`
    throw error
  }
  return {
    shown: `${http}://${url.host}${path}`,
    endpoint: `${isSecure ? 'wss' : 'ws'}://${root}`,
    probe: `${http}://${root}/websocket`,
    api: `${http}://${root.replace(/\/socket$/, '')}/api`,
  }
}
