// Asks the server why: would this user receive this row or join this channel, and if not, which check says no.

/**
 * What `POST /api/explain` answers: `{ visible, identity, checks, policies }`. `question` is its body, with `token` or
 * `claims`, and `postgres_changes` with perhaps `key`, or `topic` with `private`.
 *
 * Throws an Error with `code` and `remedy` where the server gives them.
 */
export async function explain(api, serviceKey, question) {
  let answer
  try {
    answer = await fetch(`${api}/explain`, {
      method: 'POST',
      headers: { authorization: `Bearer ${serviceKey}`, 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify(question),
    })
  } catch (error) {
    throw new Error(`The server does not answer: ${error.message}`)
  }
  const body = await answer.json().catch(() => null)
  if (answer.ok && body) return body
  const error = new Error(body?.message ?? `The server answers ${answer.status}.`)
  throw Object.assign(error, { code: body?.code ?? null, remedy: body?.remedy ?? null })
}

/** The answer in one sentence: yes, no and why, or that it cannot be told. `what` is what one receives or joins. */
export function verdict({ visible, identity, checks }, what) {
  const who = [identity?.role || 'this user', identity?.sub].filter(Boolean).join(' ')
  if (visible === true) return `Yes: ${who} ${what.yes}.`
  const failed = checks.find(({ passed }) => passed === false)
  if (failed) return `No: ${failed.detail}.`
  if (visible === false) return `No: ${who} ${what.no}.`
  const open = checks.find(({ passed }) => passed === null)
  return `That depends${open ? `: ${open.detail}` : ' on the row: give its primary key'}.`
}
