// Light, dark, or as the system has it. No module, so that it is settled before anything is painted.

{
  const NAME = 'walcast.appearance'
  const root = document.documentElement
  const set = (appearance) => {
    if (appearance === 'light' || appearance === 'dark') root.dataset.appearance = appearance
    else delete root.dataset.appearance
  }
  try {
    set(localStorage.getItem(NAME))
  } catch {
    // A browser may forbid storage. Then it is as the system has it.
  }
  document.addEventListener('DOMContentLoaded', () => {
    const select = document.querySelector('#appearance')
    select.value = root.dataset.appearance ?? 'system'
    select.addEventListener('change', () => {
      set(select.value)
      try {
        localStorage.setItem(NAME, select.value)
      } catch {
        // Then it holds until the page is left.
      }
    })
  })
}
