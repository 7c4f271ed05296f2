// Asks the server why: would this user receive this row, and if not, which check says no.

/**
 * What `POST /api/explain` answers: `{ visible, identity, checks, policies }`. `question` is its body, with `token` or
 * `claims`, `postgres_changes` and perhaps `key`.
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

/** The answer in one sentence: yes, no and why, or that it cannot be told. */
export function verdict({ visible, identity, checks }) {
  const who = identity?.sub ? `${identity.role} ${identity.sub}` : (identity?.role ?? 'this user')
  if (visible === true) return `Yes: ${who} receives this row.`
  const first = checks.find(({ passed }) => passed === (visible === false ? false : null))
  if (visible === false) return `No: ${first ? first.detail : `${who} does not receive this row.`}`
  return checks.some(({ passed }) => passed === false)
    ? `No: ${checks.find(({ passed }) => passed === false).detail}`
    : `It cannot be told${first ? `: ${first.detail}` : ' without a row’s key.'}`
}
