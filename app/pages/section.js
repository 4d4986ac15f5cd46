// A section of a page: shows the HTML the server made, changes only what changed, and sends intents.
// Elements keep their identity (data-key), so focus, selection, open details and typed text survive.

const isOpenState = (el, name) => name === "open" && el.tagName === "DETAILS"

function sync(from, to) {
  for (const {name, value} of [...to.attributes]) {
    if (isOpenState(from, name) || from.getAttribute(name) === value) continue
    from.setAttribute(name, value)
    if (name === "checked") from.checked = true
    if (name === "value" && from.tagName === "INPUT") from.value = value
  }
  for (const {name} of [...from.attributes]) {
    if (to.hasAttribute(name) || isOpenState(from, name)) continue
    if (name === "aria-busy") continue // the click is under way until the row changes
    from.removeAttribute(name)
    if (name === "checked") from.checked = false
  }
}

function patch(from, to) {
  const keyed = new Map()
  for (const child of from.children) if (child.dataset.key) keyed.set(child.dataset.key, child)
  let at = from.firstChild
  for (const next of [...to.childNodes]) {
    const key = next.nodeType === 1 ? next.dataset.key : undefined
    let mine = key ? keyed.get(key) : at
    const alike = mine && mine.nodeName === next.nodeName &&
      (mine.nodeType !== 1 || (mine.dataset.key || "") === (key || ""))
    if (!alike) {
      from.insertBefore(next, at)
      continue
    }
    if (mine === at) at = at.nextSibling
    else from.insertBefore(mine, at)
    if (mine.nodeType === 1) {
      sync(mine, next)
      if (mine.tagName !== "TEXTAREA") patch(mine, next)
    } else if (mine.nodeValue !== next.nodeValue) {
      mine.nodeValue = next.nodeValue
    }
  }
  while (at) {
    const following = at.nextSibling
    at.remove()
    at = following
  }
}

function hostTheme() {
  const lab = document.body?.dataset.jpThemeLight
  if (lab != null) return lab === "false" ? "dark" : "light"
  const code = document.body?.dataset.vscodeThemeKind
  if (code != null) return code.includes("light") ? "light" : "dark"
  const root = document.documentElement.dataset.theme
  if (root === "dark" || root === "light") return root
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"
}

function find(root, selector) {
  const here = root.querySelector(selector)
  if (here) return here
  for (const el of root.querySelectorAll("*")) {
    const inside = el.shadowRoot && find(el.shadowRoot, selector)
    if (inside) return inside
  }
  return null
}

export function render({model}) {
  const root = document.createElement("div")
  root.className = "section"
  const stencil = document.createElement("template")

  const draw = () => {
    stencil.innerHTML = model.html
    patch(root, stencil.content)
    for (const time of root.querySelectorAll("time[datetime]")) {
      if (time.dataset.said === time.dateTime) continue
      time.dataset.said = time.dateTime
      time.title = new Date(time.dateTime).toLocaleString()
    }
  }
  const dress = () => { root.dataset.theme = model.theme === "auto" ? hostTheme() : model.theme }
  const send = (intent, source, more) => {
    const data = {...source.dataset, ...more, intent}
    delete data.key
    model.send_msg(data)
  }

  root.addEventListener("click", (event) => {
    const target = event.target.closest("[data-intent]")
    if (!target || target.tagName === "FORM" || target.tagName === "INPUT" || target.tagName === "SELECT") return
    event.preventDefault()
    if (target.getAttribute("aria-busy") === "true") return
    if (target.classList.contains("once")) {
      target.setAttribute("aria-busy", "true")
      setTimeout(() => target.removeAttribute("aria-busy"), 4000)
    }
    if (target.dataset.intent === "go") {
      const found = find(document, `[id="${target.dataset.target}"], .go-${target.dataset.target}`)
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches
      found?.scrollIntoView({behavior: calm ? "auto" : "smooth", block: "start"})
      return
    }
    send(target.dataset.intent, target)
  })
  root.addEventListener("change", (event) => {
    const target = event.target.closest("input[data-intent], select[data-intent]")
    if (!target) return
    send(target.dataset.intent, target, {value: target.value, checked: target.checked === true})
  })
  root.addEventListener("submit", (event) => {
    event.preventDefault()
    const form = event.target
    const fields = {}
    for (const [name, value] of new FormData(form)) fields[name] = value
    send(form.dataset.intent, form, {fields})
  })
  root.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form) {
      event.preventDefault()
      event.target.form.requestSubmit()
    }
  })

  model.on("html", draw)
  model.on("theme", dress)
  dress()
  draw()
  if (model.announce) {
    const saved = /(?:^|; )arqscope_theme=(light|dark)/.exec(document.cookie)
    model.send_msg({intent: "theme", value: saved ? saved[1] : hostTheme()})
  }
  model.on("msg:custom", (said) => {
    if (said.theme) document.cookie = `arqscope_theme=${said.theme}; path=/; max-age=31536000; samesite=strict`
  })
  return root
}
