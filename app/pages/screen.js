// The screen: shows the HTML the server made, changes only what changed, and sends intents.
// Elements keep their identity (data-key), so focus, selection, open rows and typed text survive.

const PARTS = ["head", "rail", "strip", "above", "below", "foot", "dialog", "notices"]

// attributes the browser owns once the element is there: what a person opened stays open
function mine(el, name) {
  if (name === "open") return el.tagName === "DETAILS" || el.tagName === "DIALOG"
  return (name === "hidden" && "own" in el.dataset) || (name === "aria-expanded" && "opens" in el.dataset)
}

function sync(from, to) {
  for (const {name, value} of [...to.attributes]) {
    if (mine(from, name) || from.getAttribute(name) === value) continue
    from.setAttribute(name, value)
    if (name === "checked") from.checked = true
    if (name === "value" && from.tagName === "INPUT") from.value = value
  }
  for (const {name} of [...from.attributes]) {
    if (to.hasAttribute(name) || mine(from, name) || from.tagName === "TIME") continue
    if (name === "aria-busy" || name === "style") continue // a click under way; what a person resized
    from.removeAttribute(name)
    if (name === "checked") from.checked = false
  }
}

const said = (select) => (select.querySelector("option[selected]") || select.options[0])?.value

function patch(from, to) {
  const keyed = new Map()
  for (const child of from.children) if (child.dataset.key) keyed.set(child.dataset.key, child)
  let at = from.firstChild
  for (const next of [...to.childNodes]) {
    const key = next.nodeType === 1 ? next.dataset.key : undefined
    const now = key ? keyed.get(key) : at
    const alike = now && now.nodeName === next.nodeName &&
      (now.nodeType !== 1 || (now.dataset.key || "") === (key || ""))
    if (!alike) {
      from.insertBefore(next, at)
      continue
    }
    if (now === at) at = at.nextSibling
    else from.insertBefore(now, at)
    if (now.nodeType === 1) {
      const before = now.tagName === "SELECT" ? said(now) : null
      sync(now, next)
      if (now.tagName !== "TEXTAREA" && now.tagName !== "TIME") patch(now, next)
      if (before !== null && before !== said(next)) now.value = said(next) // else a person's choice stays
    } else if (now.nodeValue !== next.nodeValue) {
      now.nodeValue = next.nodeValue
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
  return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"
}

const remember = (name, value) => {
  document.cookie = `arqscope_${name}=${value}; path=/; max-age=31536000; samesite=strict`
}
const remembered = (name) => new RegExp(`(?:^|; )arqscope_${name}=([\\w.]+)`).exec(document.cookie)?.[1]

// how long; a moment minutes ago is told in minutes (*coarse*): seconds would only flicker
function age(seconds, coarse) {
  const s = Math.max(0, Math.floor(seconds))
  if (s < 1) return "now"
  if (s < 60) return `${s} s`
  const two = (n) => String(n).padStart(2, "0")
  if (s < 3600 && coarse) return `${Math.floor(s / 60)} m`
  const pair = (great, word, small, unit) => small ? `${great} ${word} ${two(small)} ${unit}` : `${great} ${word}`
  if (s < 3600) return pair(Math.floor(s / 60), "m", s % 60, "s")
  if (s < 86400) return pair(Math.floor(s / 3600), "h", Math.floor(s % 3600 / 60), "m")
  return pair(Math.floor(s / 86400), "d", Math.floor(s % 86400 / 3600), "h")
}

function paired(list) {
  const said = {}
  for (let n = 0; n < list.length; n += 2) said[list[n]] = list[n + 1]
  return said
}

// the charts of a served page: a document of their own, given as text, then changed like everybody's
function row(count) {
  const made = document.createElement("div")
  made.className = "charts-row"
  for (let n = 0; n < count; n++) {
    const box = document.createElement("div")
    box.className = "panel chart-box"
    made.append(box)
  }
  return made
}

// models carry the colours of both themes in their tags: "tints", then name, light, dark, name, light, dark …
function tint(model, theme) {
  const tags = model.tags
  if (tags?.[0] !== "tints") return
  for (let n = 1; n < tags.length; n += 3) {
    const [name, light, dark] = tags.slice(n, n + 3)
    const wanted = theme === "dark" ? dark : light
    model[name] = model[name]?.value !== undefined ? {value: wanted} : wanted
  }
}

// what somebody looks at in a document: the stretch brushed, the names hidden
const looked = (roots) => roots.map(({x_range, renderers}) => ({
  range: x_range.have_updated_interactively ? [x_range.start, x_range.end] : null,
  visible: renderers.map((drawn) => drawn.visible),
}))
function look(roots, had) {
  roots.forEach(({x_range, renderers}, n) => {
    const {range, visible} = had[n] ?? {visible: []}
    renderers.forEach((drawn, i) => { if (visible[i] === false) drawn.visible = false })
    if (!range) return
    x_range.have_updated_interactively = true
    x_range.setv({start: range[0], end: range[1]})
  })
}

function hanger(place, ready, theme) {
  let hung = null
  const paint = () => {
    for (const chart of hung?.roots() ?? []) for (const model of chart.references()) tint(model, theme())
  }
  const take = () => {
    if (!hung) return
    const number = Bokeh.documents.indexOf(hung)
    if (number >= 0) Bokeh.documents.splice(number, 1)
    hung.clear()
    hung = null
  }
  const show = async (text, isAgain) => {
    if (!text) {
      take()
      place.replaceChildren()
      return
    }
    const made = JSON.parse(text)
    const ids = made.roots.map((root) => root.id)
    let boxes = place.querySelector(".charts-row")
    if (hung || boxes?.children.length !== ids.length) boxes = row(ids.length)
    const had = isAgain && hung ? looked(hung.roots()) : null
    take()
    if (!boxes.isConnected) place.replaceChildren(boxes)
    const embedded = Bokeh.documents[0].constructor.from_json(made) // the page is a document as well
    if (had) look(embedded.roots(), had)
    hung = embedded
    paint()
    await Bokeh.embed.add_document_standalone(embedded, document.body, [...boxes.children]) // notices go into the body
  }
  let last = Promise.resolve()
  const hang = (said) => {
    last = last.then(async () => {
      if ("charts" in said) await show(said.charts, "again" in said)
      if (!("changes" in said) || !hung) return
      for (const change of JSON.parse(said.changes)) hung.apply_json_patch(change)
      if (said.changes.includes('"tints"')) paint()
    }).catch((error) => console.error("charts:", error)).then(ready)
  }
  return {hang, paint}
}

export function render({model}) {
  const root = document.createElement("div")
  root.className = "section frame"
  const stencil = document.createElement("template")
  const part = {}
  const make = (name, tag) => {
    const el = part[name] = document.createElement(tag)
    el.className = `part-${name}`
    return el
  }
  const skip = document.createElement("a")
  skip.className = "skip"
  skip.href = "#main"
  skip.textContent = "Skip to the content"
  const main = document.createElement("main")
  main.id = "main"
  main.tabIndex = -1
  const charts = document.createElement("div")
  charts.className = "part-charts"
  const drawn = model.get_child("charts")
  if (drawn) charts.append(drawn)
  if (model.boxes) charts.append(row(model.boxes))
  main.append(make("strip", "div"), make("above", "div"), charts, make("below", "div"), make("foot", "div"))
  root.append(skip, make("head", "header"), make("rail", "div"), main, make("dialog", "div"), make("notices", "div"))
  root.dataset.served = model.served

  let skew = 0 // s the server's clock is ahead of ours
  let then = null // ms: the moment the page is shown as of; ages do not grow
  const tick = () => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.dateTime)
      const seconds = then === null ? (Date.now() - at) / 1000 + skew : (then - at) / 1000
      const ahead = seconds < -0.5
      const text = ahead ? `in ${age(-seconds)}` : age(seconds, !("since" in time.dataset))
      const said = "since" in time.dataset || ahead || text === "now" ? text : `${text} ago`
      if (time.textContent !== said) time.textContent = said
      if (time.dataset.said !== time.dateTime) {
        time.dataset.said = time.dateTime
        time.title = new Date(time.dateTime).toLocaleString()
      }
    }
  }

  const current = new WeakMap() // the tab each row of tabs was last moved to show
  const reveal = () => {
    for (const tab of main.querySelectorAll(".tabs > [aria-current]")) {
      const tabs = tab.parentNode
      if (!tabs.clientWidth || current.get(tabs) === tab.dataset.key) continue // not laid out yet, or done
      current.set(tabs, tab.dataset.key)
      tabs.scrollLeft = tab.offsetLeft - (tabs.clientWidth - tab.offsetWidth) / 2
    }
  }

  const told = {} // what a served page was told since it was loaded, by name
  const shown = (name) => name in told ? told[name] : model[name]
  const draw = (name) => {
    stencil.innerHTML = shown(name)
    patch(part[name], stencil.content)
    if (name === "dialog") showDialog()
    if (name === "foot") {
      const now = part.foot.querySelector("[data-now]")?.dataset.now
      if (now) skew = Number(now) / 1000 - Date.now() / 1000
      if (Math.abs(skew) < 5) skew = 0
      const stood = part.foot.querySelector("[data-then]")?.dataset.then
      then = stood ? Number(stood) : null
    }
    if (name === "rail") narrow()
    if (name === "above" || name === "below") reveal()
    tick()
  }
  const dress = () => {
    root.dataset.theme = model.theme === "auto" ? hostTheme() : model.theme
    if (model.served) document.documentElement.dataset.theme = root.dataset.theme
  }
  const send = (intent, source, more) => {
    const data = {...source?.dataset, ...more, intent}
    delete data.key
    model.send_msg(data)
  }

  // -- addresses ---------------------------------------------------------------------------------
  const tell = (url) => send("visit", null, {page: url.pathname.split("/").pop(), search: url.search})
  const visit = (address, {replace = false} = {}) => {
    if (!model.served) {
      const [page, search = ""] = address.split("?")
      send("visit", null, {page, search})
      return
    }
    const url = new URL(address, location.href)
    if (url.href !== location.href) history[replace ? "replaceState" : "pushState"]({}, "", url)
    tell(url)
    root.classList.remove("rail-open")
    if (!replace) scrollTo({top: 0})
  }
  if (model.served) addEventListener("popstate", () => tell(location))
  let stretching = 0 // a brush tells of every linked chart: the last one counts
  if (model.served) addEventListener("arqscope:stretch", ({detail}) => {
    clearTimeout(stretching)
    stretching = setTimeout(() => send("stretch", null, detail ?? {}), 150)
  })
  const mark = () => { root.dataset.page = shown("place") }
  const entitle = () => { if (model.served && shown("title")) document.title = shown("title") }

  // -- dialogs -----------------------------------------------------------------------------------
  let opener = null
  function showDialog() {
    const box = part.dialog.querySelector("dialog")
    if (!box) {
      if (opener?.isConnected) opener.focus()
      opener = null
      return
    }
    if (box.open) return
    opener = root.getRootNode().activeElement
    box.addEventListener("cancel", (event) => { event.preventDefault(); send("close") })
    box.addEventListener("click", (event) => { if (event.target === box) send("close") })
    box.showModal()
  }

  // -- the rail's filter, held by the browser ----------------------------------------------------
  function narrow() {
    const box = part.rail.querySelector("input[data-narrow]")
    if (!box) return
    const word = box.value.trim().toLowerCase()
    for (const entry of part.rail.querySelectorAll("[data-queue-name]")) {
      entry.hidden = word !== "" && !entry.dataset.queueName.toLowerCase().includes(word)
    }
  }

  const busy = (el) => {
    el.setAttribute("aria-busy", "true")
    setTimeout(() => el.removeAttribute("aria-busy"), 4000)
  }
  root.addEventListener("click", (event) => {
    if (event.defaultPrevented) return
    const link = event.target.closest("a[href]")
    if (link === skip) { event.preventDefault(); main.focus(); return }
    if (link && "go" in link.dataset) {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
      event.preventDefault()
      visit(link.getAttribute("href"))
      return
    }
    if (link?.hasAttribute("download")) busy(link)
    if (event.target.closest("[data-menu]")) {
      root.classList.toggle("rail-open")
      return
    }
    if (root.classList.contains("rail-open") && !event.target.closest(".part-rail")) root.classList.remove("rail-open")
    for (const open of root.querySelectorAll("details.pop[open]")) if (!open.contains(event.target)) open.open = false
    const opens = event.target.closest("[data-opens]")
    if (opens) {
      const row = root.querySelector(`[data-key="${CSS.escape(opens.dataset.opens)}"]`)
      if (row) {
        row.hidden = !row.hidden
        opens.setAttribute("aria-expanded", String(!row.hidden))
      }
      return
    }
    const copies = event.target.closest("[data-copy]")
    if (copies) {
      navigator.clipboard?.writeText(copies.dataset.copy)
      busy(copies)
      return
    }
    const target = event.target.closest("[data-intent]")
    if (!target || ["FORM", "INPUT", "SELECT", "TEXTAREA"].includes(target.tagName)) return
    event.preventDefault()
    if (target.getAttribute("aria-busy") === "true") return
    if (target.classList.contains("once")) busy(target)
    send(target.dataset.intent, target)
  })
  root.addEventListener("change", (event) => {
    const target = event.target.closest("input[data-intent], select[data-intent]")
    if (target) {
      if (target.dataset.intent === "refresh") remember("refresh", target.value)
      send(target.dataset.intent, target, {value: target.value, checked: target.checked === true})
      return
    }
    const form = event.target.closest("form[data-go]")
    if (form && event.target.tagName === "SELECT") form.requestSubmit()
  })
  root.addEventListener("input", (event) => { if ("narrow" in event.target.dataset) narrow() })
  root.addEventListener("submit", (event) => {
    event.preventDefault()
    const form = event.target
    const fields = {}
    for (const [name, value] of new FormData(form)) fields[name] = value
    if ("go" in form.dataset) {
      const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== ""))
      visit(`${form.dataset.go}${query.size ? `?${query}` : ""}`)
      return
    }
    const button = event.submitter
    if (button?.classList.contains("once")) busy(button)
    send(form.dataset.intent, form, {fields})
  })

  // -- keyboard ----------------------------------------------------------------------------------
  let went = 0
  const typing = () => {
    const el = root.getRootNode().activeElement
    return el && (["INPUT", "SELECT", "TEXTAREA"].includes(el.tagName) || el.isContentEditable)
  }
  const onKey = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && typing()) {
      const form = root.getRootNode().activeElement.form
      if (form) { event.preventDefault(); form.requestSubmit() }
      return
    }
    if (event.key === "Escape" && root.classList.contains("rail-open")) root.classList.remove("rail-open")
    if (event.ctrlKey || event.metaKey || event.altKey || typing() || part.dialog.querySelector("dialog")) return
    if (event.key === "/") {
      const box = main.querySelector("input[type=search]") || part.rail.querySelector("input[data-narrow]")
      if (box) { event.preventDefault(); box.focus(); box.select() }
    } else if (event.key === "r") {
      send("reload")
    } else if (event.key === "?") {
      event.preventDefault()
      send("help")
    } else if (event.key === "g") {
      went = Date.now()
    } else if (Date.now() - went < 1500) {
      went = 0
      const link = part.rail.querySelector(`a[data-letter-key="${CSS.escape(event.key)}"]`)
      if (link) { event.preventDefault(); visit(link.getAttribute("href")) }
    }
  }
  if (model.served) addEventListener("keydown", onKey)
  else { root.tabIndex = -1; root.addEventListener("keydown", onKey) }

  for (const name of PARTS) {
    model.on(name, () => draw(name))
    draw(name)
  }
  model.on("theme", () => { dress(); paint() })
  model.on("title", entitle)
  model.on("place", mark)
  dress()
  entitle()
  mark()
  requestAnimationFrame(reveal)
  const beat = setInterval(tick, 1000)
  model.on("remove", () => clearInterval(beat))
  const scheme = matchMedia("(prefers-color-scheme: dark)")
  // what is set while hello is under way never comes: the server is told which edition this is, and tells the rest
  const hello = (edition) => send("hello", null, {theme: remembered("theme") || hostTheme(), refresh: remembered("refresh") || "", edition})
  if (model.served) for (const name of [...PARTS, "title", "place"]) told[name] = model[name]
  hello(model.edition)
  scheme.addEventListener("change", () => { if (!remembered("theme")) hello(null) })
  const seen = () => send("seen", null, {value: !document.hidden})
  if (model.served) document.addEventListener("visibilitychange", seen)
  const ready = () => document.getElementById("first")?.remove()
  const {hang, paint} = hanger(charts, ready, () => root.dataset.theme)
  model.on("msg:custom", (data) => {
    const said = Array.isArray(data) ? paired(data) : data
    for (const [name, value] of Object.entries(said)) {
      if (PARTS.includes(name) || name === "title" || name === "place") told[name] = value
    }
    if ("charts" in said || "changes" in said) hang(said)
    if ("place" in said) mark()
    if ("title" in said) entitle()
    for (const name of PARTS) if (name in said) draw(name)
    if (said.theme) remember("theme", said.theme)
    if (said.go) visit(said.go)
  })
  if (model.served && !model.boxes) requestAnimationFrame(ready)
  else if (model.served) setTimeout(ready, 4000) // charts that do not come hold nothing back
  return root
}
