// A text area that holds a JSON object, and says what is wrong where it does not.

/** The object in it; null, and a sentence where its first description is, if there is none. Empty is `{}`. */
export function readObject(area) {
  const told = document.getElementById(area.getAttribute('aria-describedby').split(' ')[0])
  const problem = (sentence) => {
    told.textContent = sentence
    told.hidden = !sentence
    area.setAttribute('aria-invalid', String(sentence !== ''))
    if (sentence) area.focus()
    return null
  }
  let value
  try {
    value = JSON.parse(area.value.trim() || '{}')
  } catch (error) {
    return problem(`This is not JSON: ${error.message}.`)
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return problem('It must be an object, { … }.')
  problem('')
  return value
}
