// Single keys for what is done often. They rest while one writes, and can be switched off for good.

const SWITCH = 'walcast.shortcuts'

/** Listens for keys: `{ j: () => … }`. `dialog` lists them and has the switch. */
export function shortcuts(actions, dialog) {
  const checkbox = dialog.querySelector('input')
  checkbox.checked = remembered() !== 'off'
  checkbox.addEventListener('change', () => remember(checkbox.checked ? 'on' : 'off'))
  dialog.querySelector('.close').addEventListener('click', () => dialog.close())
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && isWriting(event.target)) return event.target.blur()
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return
    if (dialog.open || !checkbox.checked || isWriting(event.target)) return
    const action = actions[event.key]
    if (!action) return
    event.preventDefault()
    action()
  })
}

function isWriting(target) {
  return target.matches('input:not([type=checkbox], [type=radio]), textarea, select')
}

function remembered() {
  try {
    return localStorage.getItem(SWITCH)
  } catch {
    return null
  }
}

function remember(value) {
  try {
    localStorage.setItem(SWITCH, value)
  } catch {
    // Then it holds until the page is left.
  }
}
