// Two users and a visitor, each with a supabase-js client of its own. Rows are written over HTTP as that user; what is
// shown are the rows there were at the start, and the changes since.

const MOST_NOTES = 100

const problem = document.querySelector('#problem')

function tell(sentence) {
  problem.textContent = sentence
  problem.hidden = !sentence
}

class Pane {
  constructor(name, user, settings) {
    this.name = name
    this.user = user
    this.names = new Map(Object.entries(settings.users).map(([key, other]) => [other.id, key === name ? 'you' : capital(key)]))
    this.items = new Map()
    this.newer = new Set()
    const pane = document.querySelector('#pane').content.firstElementChild.cloneNode(true)
    pane.dataset.pane = name
    pane.querySelector('h2').textContent = capital(name)
    const inspect = pane.querySelector('.inspect')
    inspect.href = `/inspector#as=${user.id ? name : 'anon'}`
    inspect.setAttribute('aria-label', `Inspect as ${capital(name)}`)
    this.list = pane.querySelector('.notes')
    this.status = pane.querySelector('.status')
    this.log = pane.querySelector('.log')
    const form = pane.querySelector('form')
    const hint = pane.querySelector('.hint')
    if (user.id) {
      hint.remove()
      const input = form.elements.body
      input.setAttribute('aria-label', `Note of ${capital(name)}`)
      form.addEventListener('submit', async (event) => {
        event.preventDefault()
        const note = { body: input.value.trim(), is_private: form.elements.private.checked }
        if (note.body && (await this.ask('POST', '', note))) input.value = ''
      })
    } else {
      form.remove()
    }
    document.querySelector('main').append(pane)
    this.show('CONNECTING')
    this.connect(settings)
  }

  async connect(settings) {
    this.client = window.supabase.createClient(settings.url, settings.anonKey, {
      auth: { persistSession: false, storageKey: this.name },
    })
    // As after a sign-in; a join before the token is known would be the anonymous visitor's.
    await this.client.realtime.setAuth(this.user.token)
    this.client
      .channel('notes')
      .on('postgres_changes', { event: '*', schema: 'public', table: 'messages' }, (change) => this.take(change))
      .on('system', {}, (message) => {
        if (message.status !== 'ok') this.say(message.message)
      })
      .subscribe((status, error) => {
        this.show(status)
        if (error) this.say(error.message)
        // From here on nothing is missed, so what is there now plus what comes is everything.
        if (status === 'SUBSCRIBED') this.load()
      })
  }

  show(status) {
    const words = { SUBSCRIBED: 'live', CHANNEL_ERROR: 'trouble, trying again', TIMED_OUT: 'no answer, trying again', CLOSED: 'closed' }
    this.status.dataset.status = status
    this.status.textContent = words[status] ?? 'connecting'
  }

  say(sentence) {
    this.log.textContent = sentence
    this.log.title = sentence
  }

  // What came in while the list was on its way is newer than the list.
  async load() {
    this.newer = new Set()
    const notes = await this.ask('GET', '')
    if (!notes) return
    const listed = new Set(notes.map((note) => note.id))
    for (const id of this.items.keys()) if (!listed.has(id) && !this.newer.has(id)) this.drop(id)
    for (const note of notes) if (!this.newer.has(note.id)) this.put(note)
  }

  async ask(method, path, body) {
    try {
      const answer = await fetch(`/dev/notes${path}`, {
        method,
        headers: { authorization: `Bearer ${this.user.token}`, 'content-type': 'application/json' },
        body: body && JSON.stringify(body),
      })
      const json = await answer.json()
      if (answer.ok) return json
      this.say(json.message)
    } catch (error) {
      this.say(`The server does not answer: ${error.message}`)
    }
    return null
  }

  take(change) {
    const late = Math.max(0, Date.now() - Date.parse(change.commit_timestamp))
    this.say(`${change.eventType} ${JSON.stringify(change.eventType === 'DELETE' ? change.old : change.new)}`)
    this.newer.add(change.new.id ?? change.old.id)
    if (change.eventType === 'DELETE') return this.drop(change.old.id)
    const item = this.put(change.new)
    item.querySelector('.event').textContent = `${change.eventType.toLowerCase()} · ${late} ms`
    item.classList.remove('fresh')
    // Reading the width makes the browser notice that the class was gone, so that the animation starts anew.
    void item.offsetWidth
    item.classList.add('fresh')
  }

  put(note) {
    let item = this.items.get(note.id)
    const isNew = !item
    if (isNew) {
      item = document.querySelector('#note').content.firstElementChild.cloneNode(true)
      item.dataset.note = note.id
      item.querySelector('.edit').addEventListener('click', () => this.edit(item))
      item.querySelector('.delete').addEventListener('click', () => this.ask('DELETE', `/${note.id}`))
      this.items.set(note.id, item)
      const next = [...this.list.children].find((other) => Number(other.dataset.note) > note.id)
      this.list.insertBefore(item, next ?? null)
      if (this.items.size > MOST_NOTES) this.drop(Number(this.list.firstElementChild.dataset.note))
    }
    item.querySelector('.body').textContent = note.body
    item.querySelector('.writer').textContent = this.names.get(note.user_id) ?? 'somebody'
    item.classList.toggle('is-private', note.is_private)
    item.classList.toggle('own', note.user_id === this.user.id)
    if (isNew) this.list.scrollTop = this.list.scrollHeight
    return item
  }

  drop(id) {
    this.items.get(id)?.remove()
    this.items.delete(id)
  }

  edit(item) {
    const body = item.querySelector('.body')
    const before = body.textContent
    const input = Object.assign(document.createElement('input'), { value: before, maxLength: 500 })
    input.setAttribute('aria-label', 'Change the note')
    body.replaceChildren(input)
    input.focus()
    let done = false
    const finish = async (keep) => {
      if (done) return
      done = true
      const text = input.value.trim()
      body.textContent = before
      if (keep && text && text !== before) {
        await this.ask('PATCH', `/${item.dataset.note}`, { body: text, is_private: item.classList.contains('is-private') })
      }
    }
    input.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' && event.key !== 'Escape') return
      // Else the same Enter would press the button that is focused next.
      event.preventDefault()
      finish(event.key === 'Enter')
      item.querySelector('.edit').focus()
    })
    input.addEventListener('blur', () => finish(true))
  }
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1)
}

async function start() {
  if (!window.supabase) {
    return tell('supabase-js is not installed here, and this page runs on it. In the project\u2019s folder: cd web && npm ci, then load this page again.')
  }
  const settings = await (await fetch('/dev/settings')).json()
  settings.url = location.origin
  for (const [name, user] of Object.entries(settings.users)) new Pane(name, user, settings)
  new Pane('visitor', { token: settings.anonKey }, settings)
}

start().catch((error) => tell(`The page cannot start: ${error.message}`))
