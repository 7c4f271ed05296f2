// Making elements without a framework, and without HTML in strings: what is shown came from elsewhere.

/**
 * An element. `properties` are attributes, but for `on`, an object of listeners; null and false leave one out.
 * Children are elements, text, or null for none.
 */
export function element(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children)
}

/** The same for drawings. */
export function shape(name, properties = {}, ...children) {
  return fill(document.createElementNS('http://www.w3.org/2000/svg', name), properties, children)
}

/** The element of the page with this id. */
export function byId(id) {
  return document.getElementById(id)
}

function fill(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue
    node.setAttribute(name, value === true ? '' : value)
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener)
  node.append(...children.flat().filter((child) => child !== null && child !== undefined))
  return node
}
