// The fields of one postgres_changes binding; the join form has any number of them, the question why has one.

import { element } from './element.js'

const EVENTS = ['*', 'INSERT', 'UPDATE', 'DELETE']
let count = 0

/**
 * Fields and their values. `read()` gives the binding as a client writes it, without what is left empty; `write`
 * shows another.
 */
export function bindingFields({ event = '*', schema = 'public', table = '', filter = '', select = [] } = {}) {
  count += 1
  const field = (name, label, control) => {
    control.id = `binding-${count}-${name}`
    return element('div', { class: `field field-${name}` }, element('label', { for: control.id }, label), control)
  }
  const input = (value, placeholder) => element('input', { value, placeholder, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' })
  const controls = {
    event: element('select', {}, EVENTS.map((name) => element('option', { value: name }, name === '*' ? 'all (*)' : name))),
    schema: input(schema, 'public'),
    table: input(table, 'all tables'),
    filter: input(filter, 'id=eq.5'),
    select: input(select.join(', '), 'all columns'),
  }
  controls.event.value = event
  const node = element(
    'div',
    { class: 'binding' },
    field('event', 'Event', controls.event),
    field('schema', 'Schema', controls.schema),
    field('table', 'Table', controls.table),
    field('filter', 'Filter', controls.filter),
    field('select', 'Select', controls.select),
  )
  return { node, read: () => read(controls), write: (binding) => write(controls, binding) }
}

function read({ event, schema, table, filter, select }) {
  const binding = { event: event.value, schema: schema.value.trim() || 'public' }
  if (table.value.trim()) binding.table = table.value.trim()
  if (filter.value.trim()) binding.filter = filter.value.trim()
  const columns = select.value.split(',').map((column) => column.trim()).filter(Boolean)
  if (columns.length) binding.select = columns
  return binding
}

function write(controls, { event = '*', schema = 'public', table = '', filter = '', select = [] }) {
  controls.event.value = EVENTS.includes(event.toUpperCase()) ? event.toUpperCase() : '*'
  Object.assign(controls.schema, { value: schema })
  Object.assign(controls.table, { value: table })
  Object.assign(controls.filter, { value: filter })
  Object.assign(controls.select, { value: select.join(', ') })
}
