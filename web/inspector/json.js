// JSON to look at: nested parts open and close, by mouse and by keyboard.

import { element } from './element.js'

const MOST_CHILDREN = 200
/** A row within a change is seen at once; its description, a list of objects, is not what one looks for. */
const OPEN_DEPTH = 3
const SHORT = 60

/** An element that shows a value. */
export function jsonView(value, depth = 0) {
  if (value === null || typeof value !== 'object') return scalar(value)
  const isList = Array.isArray(value)
  const members = Object.entries(value)
  if (members.length === 0) return element('span', { class: 'json-empty' }, isList ? '[ ]' : '{ }')
  const line = isList && shortLine(value)
  if (line) return line
  const size = `${members.length} ${isList ? (members.length === 1 ? 'item' : 'items') : members.length === 1 ? 'key' : 'keys'}`
  const node = element(
    'details',
    { class: 'json', open: depth < (isList ? 1 : OPEN_DEPTH) },
    element('summary', {}, isList ? '[…] ' : '{…} ', element('span', { class: 'json-size' }, size)),
  )
  // What is closed is made when it is opened, for payloads of megabytes.
  const make = () => node.append(list(members, depth))
  if (node.open) make()
  else node.addEventListener('toggle', make, { once: true })
  return node
}

function list(members, depth) {
  const rest = members.length - MOST_CHILDREN
  const items = members.slice(0, MOST_CHILDREN).map(([key, value]) =>
    element('li', {}, element('span', { class: 'json-key' }, key), ' ', jsonView(value, depth + 1)),
  )
  if (rest > 0) items.push(element('li', { class: 'json-size' }, `and ${rest} more`))
  return element('ul', {}, items)
}

/** A list of a few plain values on one line. */
function shortLine(values) {
  const isPlain = values.every((value) => value === null || typeof value !== 'object')
  if (!isPlain || JSON.stringify(values).length > SHORT) return null
  return element('span', { class: 'json-list' }, '[', values.flatMap((value, i) => (i ? [', ', scalar(value)] : [scalar(value)])), ']')
}

function scalar(value) {
  const kind = value === null ? 'null' : typeof value
  return element('span', { class: `json-${kind}` }, kind === 'string' ? JSON.stringify(value) : String(value))
}
