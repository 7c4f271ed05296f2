// Tabs: one stop for Tab, arrows between them.

/** Makes a tab list work. Returns a function that shows the tab of a name, its `data-tab`. */
export function tabs(list) {
  const all = [...list.querySelectorAll('[role=tab]')]
  const show = (name) => {
    for (const tab of all) {
      const isShown = tab.dataset.tab === name
      tab.setAttribute('aria-selected', String(isShown))
      tab.tabIndex = isShown ? 0 : -1
      document.getElementById(tab.getAttribute('aria-controls')).hidden = !isShown
    }
  }
  for (const tab of all) tab.addEventListener('click', () => show(tab.dataset.tab))
  list.addEventListener('keydown', (event) => {
    const at = all.indexOf(document.activeElement)
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key]
    if (at < 0 || to === undefined) return
    event.preventDefault()
    const tab = all.at(to % all.length)
    show(tab.dataset.tab)
    tab.focus()
  })
  show(all[0].dataset.tab)
  return show
}
