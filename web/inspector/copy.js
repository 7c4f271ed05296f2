// Copying text, also where a browser gives pages without https no clipboard.

/** Copies, and says so on the button for a while. */
export function copyButton(button, read) {
  const label = button.textContent
  button.addEventListener('click', async () => {
    const text = read()
    button.textContent = (await written(text)) || selected(text) ? 'Copied' : 'The browser does not copy'
    setTimeout(() => (button.textContent = label), 2_000)
  })
  return button
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return false
  }
}

/** The way before there was a clipboard: what is selected is copied. */
function selected(text) {
  const area = document.createElement('textarea')
  area.value = text
  // In a dialog or not, where it can be focused; the eye need not follow.
  area.className = 'aside'
  const focused = document.activeElement
  document.body.append(area)
  area.select()
  const copied = document.execCommand('copy')
  area.remove()
  focused?.focus()
  return copied
}
