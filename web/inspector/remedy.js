// What can be done about a refusal: its code, its sentence and a remedy, from the words the server uses.

const SQL = /: ((?:alter|create|grant|revoke|drop) [^]+)$/
const CODED = /^([A-Z][A-Za-z0-9]+): ([^]*)$/

const quoted = (text) => `'${text.replaceAll("'", "''")}'`
const named = (text) => `"${text.replaceAll('"', '""')}"`

/** SQL that lets a role read or write a private topic. */
export function topicPolicy(action, topic, role, extension) {
  const condition = [`realtime.topic() = ${quoted(topic)}`]
  if (extension) condition.push(`extension = ${quoted(extension)}`)
  const [command, clause] = action === 'read' ? ['select', 'using'] : ['insert', 'with check']
  return `create policy ${named(`${action} ${topic}`)} on realtime.messages for ${command} to ${named(role)} ${clause} (${condition.join(' and ')})`
}

const KEY = 'Use a key signed with API_JWT_SECRET or a key of API_JWT_JWKS: walcast token --role anon prints one, walcast doctor --key checks one.'
const DATABASE = 'The server has no connection to Postgres: /readyz says whether it comes back, the server’s log says why it went.'

const REMEDIES = {
  Unauthorized: ({ topic, role }, sentence) =>
    sentence.startsWith('This token is bound')
      ? 'Have a token made that names this topic: POST /api/tokens.'
      : topicPolicy('read', topic, role),
  PrivateOnly: () => 'Tick “Private” and join again.',
  InvalidJWTToken: () => 'Connect with a token that is still valid and has the claims role and exp.',
  MalformedJWT: () => KEY,
  JwtSignatureError: () => KEY,
  JwtSignerError: () => KEY,
  ClientJoinRateLimitReached: () => 'Wait a moment, or raise TENANT_MAX_JOINS_PER_SECOND.',
  ChannelRateLimitReached: () => 'Leave a channel, or raise TENANT_MAX_CHANNELS_PER_CLIENT.',
  ConnectionRateLimitReached: () => 'Raise TENANT_MAX_CONCURRENT_USERS.',
  UnableToConnectToProject: () => DATABASE,
  InitializingProjectConnection: () => DATABASE,
  DatabaseLackOfConnections: () => 'Raise max_connections in Postgres, or lower WALCAST_POOL_SIZE.',
  MissingPartition: () => 'walcast doctor says why realtime.messages has no partition for today.',
  PostgresChangesSubscribeTimeout: () => DATABASE,
}

/** The warnings in a message, as notices: each a sentence, and the SQL it may end with. */
export function warnings(message) {
  return Array.isArray(message.warnings) ? message.warnings.map((text) => warning(String(text))) : []
}

function warning(text) {
  const sql = SQL.exec(text)
  return { level: 'warning', code: null, sentence: sql ? text.slice(0, sql.index) : text, remedy: sql?.[1] ?? null }
}

/** Why a join was refused. `context` is `{ topic, role }`. */
export function refusal(text, context) {
  const [, code = null, sentence = text] = CODED.exec(text) ?? []
  const sql = SQL.exec(sentence)
  const remedy = sql?.[1] ?? REMEDIES[code]?.(context, sentence) ?? null
  return { level: 'error', code, sentence: sql ? sentence.slice(0, sql.index) : sentence, remedy }
}

/** What a `system` message says, as notices; none if it only confirms. */
export function notices(said) {
  const { status, message, extension } = said
  if (status === 'ok') return warnings(said)
  const level = status === 'error' ? 'error' : 'warning'
  return [{ level, code: extension ?? null, sentence: String(message), remedy: null }, ...warnings(said)]
}
