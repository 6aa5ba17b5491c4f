// The page: one stream of events in, one state in memory, drawn from it. No framework, nothing from elsewhere.
import { drawDelivery } from "./delivery.js";
import { $, DHM, FULL, HM, SYMBOL, ago, at, el, figure, fixed, put, setZone, shownUnit } from "./draw.js";
import { columnWord, lang, levelWord, qualityWord, speak, stateWord, unitWord, word } from "./words.js";

const SILENCE = 8000; // ms without any event, of the 2 s that the server promises, until the line counts as lost
let state = null; // as /api/v1/state has it
let skew = { at: 0, now: 0 }; // when which plant time came
let lost = true, heard = 0, source = null, open = new Set();

const plantNow = () => skew.now + (performance.now() - skew.at) * (state ? state.speed : 1);
const rank = (quality) => (quality >= 128 ? "bad" : quality >= 64 ? "uncertain" : "good");

function span(window) {
  if (window.from_ms === null) return at(window.end_ms ?? window.time_ms, DHM);
  if (window.name === "1mo") return at(window.from_ms, { year: "numeric", month: "2-digit" });
  if (window.name === "1a") return at(window.from_ms, { year: "numeric" });
  if (window.name === "12mo") {
    const month = { year: "numeric", month: "2-digit" };
    return `${at(window.from_ms, month)}–${at(window.end_ms - 1, month)}`;
  }
  if (window.name === "1d") return at(window.from_ms, { month: "2-digit", day: "2-digit" });
  return `${at(window.from_ms, HM)}–${at(window.end_ms, HM)}`;
}

// ---- age: an old value is never shown as new ----------------------------------------------------
// the page hears of changes every half second of real time, which is more plant time on a fast clock
const limit = (period) => Math.max(3 * period, 3) * 1000 + 2000 * (state.speed > 1 ? state.speed : 0);
const staleStream = (stream) => lost || plantNow() - stream.time_ms > limit(stream.period_s);
function staleWindow(window) {
  if (lost) return true;
  const length = window.end_ms - window.from_ms;
  return window.from_ms !== null && length > 0 && plantNow() - window.end_ms > 3 * length;
}

// ---- KPI cards ------------------------------------------------------------------------------------
const MAIN = {
  energy: () => ["intensity", "total_kgce", "output_t"],
  oee: () => ["oee", "availability", "effectiveness", "quality_ratio"],
  demand: () => ["demand_kw", "power_kw", "forecast_kw", "demand_max_kw"],
  tariff: () => ["cost_total", "price_mean", "power_factor", "demand_max_kw"],
  balance: () => ["gap_share", "gap", "main", "sum_subs"],
  baseline: () => ["saving_ipmvp", "expected", "actual", "cusum"],
  "energy-by-state": () => ["not_producing_share", "standby_kw", "producing_kwh", "total_kwh"],
  product: (names) => [...names.filter((n) => n.startsWith("intensity")), "batch", "total_kgce"],
};
function mainColumns(kpi, columns) {
  const names = columns.map((c) => c.name);
  const wanted = MAIN[kpi.family]?.(names) || [...names.filter((n) => n.endsWith("_corrected")).slice(0, 4), ...Object.keys(kpi.targets)];
  const found = [...new Set(wanted)].filter((n) => names.includes(n));
  return found.length ? found : names.filter((n) => !["coverage", "estimated", "quality"].includes(n)).slice(0, 4);
}

function cell(window, column, tag = "td") {
  const stale = staleWindow(window), level = rank(column.quality);
  const shown = column.text ?? figure(column.value, column.name, column.unit);
  const note = level === "good" ? null : el("i", { class: `mark ${level}`, title: qualityWord(column.quality_name), "aria-label": qualityWord(column.quality_name) }, SYMBOL[level]);
  return el(tag, {
    class: `figure ${level}${stale ? " stale" : ""}`, title: `${columnWord(column.name)} ${column.value ?? ""} ${column.unit} · ${qualityWord(column.quality_name)}`,
    "data-stream": window.stream, "data-column": column.name, "data-value": JSON.stringify(column.value), "data-time": window.time_ns,
    "data-running": String(window.running), "data-quality": column.quality, "data-stale": String(stale),
  }, shown, note);
}

function windowName(window) {
  const head = el("th", { scope: "row" }, el("b", {}, word(window.name)));
  if (!window.running) {
    head.append(el("span", { class: "when" }, span(window)), coverage(window));
    if (staleWindow(window)) head.append(el("em", { class: "tagged stale" }, `${SYMBOL.stale} ${word("stale")}`));
    return head;
  }
  head.append(el("em", { class: "tagged running" }, word("running")));
  if (window.from_ms !== null) {
    const share = Math.min(1, Math.max(0, (plantNow() - window.from_ms) / (window.end_ms - window.from_ms)));
    const bar = el("progress", { max: 1, value: share.toFixed(3), "aria-label": word("passed") });
    head.append(bar, el("span", { class: "when passed", title: word("passed") }, `${Math.floor(share * 100)} % · ${span(window)}`));
  }
  head.append(coverage(window));
  return head;
}

function coverage(window) {
  const column = window.columns.find((c) => c.name === "coverage");
  if (!column) return "";
  const share = cell(window, column, "span");
  share.className += " share";
  share.prepend(`${word("coverage")} `);
  return share;
}

function rowsOf(kpi, names, heading) {
  return kpi.windows.map((window) => {
    const by = Object.fromEntries(window.columns.map((c) => [c.name, c]));
    return el("tr", { class: window.running ? "running" : "closed", "data-window": window.name },
      heading(window), ...names.map((n) => (by[n] ? cell(window, by[n]) : el("td", {}, "–"))));
  });
}

const shortName = (w) => el("th", { scope: "row" }, el("b", {}, word(w.name)), w.running ? el("em", { class: "tagged running" }, word("running")) : el("span", { class: "when" }, span(w)));

function grid(kpi, names, all, heading = shortName) {
  const heads = names.map((n) => {
    const unit = shownUnit(n, all.find((c) => c.name === n)?.unit ?? "");
    return el("th", { scope: "col" }, columnWord(n), unit ? el("span", { class: "unit" }, unit) : null);
  });
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, word("window")), ...heads)), el("tbody", {}, ...rowsOf(kpi, names, heading))));
}

function card(kpi) {
  const all = [...new Map(kpi.windows.flatMap((w) => w.columns).map((c) => [c.name, c])).values()];
  const names = mainColumns(kpi, all);
  const rest = all.map((c) => c.name).filter((n) => !names.includes(n) && n !== "coverage");
  const closed = kpi.windows.filter((w) => !w.running);
  // the longest window up to an hour that is good; else the longest that has a value
  const short = [...closed].reverse().filter((w) => ["1min", "15min", "1h"].includes(w.name));
  const below = (limit) => short.find((w) => w.columns.some((c) => c.name === names[0] && c.quality < limit));
  const last = below(64) || below(128) || closed[0];
  const details = el("details", {}, el("summary", {}, word("details")), grid(kpi, rest, all));
  details.open = open.has(kpi.id);
  details.addEventListener("toggle", () => (details.open ? open.add(kpi.id) : open.delete(kpi.id)));
  return el("article", { class: `card panel ${kpi.family}`, id: `kpi-${kpi.id}` },
    el("h3", {}, word(kpi.family), el("code", {}, kpi.id)),
    last ? headline(kpi, names, last) : el("p", { class: "headline none" }, word("none_yet")),
    grid(kpi, names, all, windowName), rest.length ? details : null);
}

function headline(kpi, names, window) {
  const by = Object.fromEntries(window.columns.map((c) => [c.name, c]));
  const stale = staleWindow(window);
  const box = el("div", { class: `headline${stale ? " stale" : ""}` });
  // a quarter of an hour must be over before there is a demand; the power is there at once
  const first = (kpi.family === "demand" && names.find((n) => by[n] && by[n].value !== null)) || names[0];
  const shown = kpi.family === "emissions" ? names.filter((n) => n.endsWith("_corrected") || kpi.targets[n]) : [first];
  for (const name of shown) {
    const column = by[name];
    if (!column) continue;
    const level = rank(column.quality), unit = shownUnit(name, column.unit);
    box.append(el("div", { class: "big" }, el("span", { class: "label" }, columnWord(name)),
      el("strong", { class: level }, figure(column.value, name, column.unit), unit && column.value !== null ? el("small", {}, unit) : null),
      level === "good" ? null : el("span", { class: `tagged ${level}` }, `${SYMBOL[level]} ${qualityWord(column.quality_name)}`),
      kpi.targets[name] ? scale(kpi, name, column) : null));
  }
  if (kpi.family === "oee") box.append(factors(names.slice(1).map((n) => by[n]).filter(Boolean)));
  box.prepend(el("p", { class: "when" }, `${word("closed")} · ${word(window.name)} · ${span(window)}${stale ? ` · ${SYMBOL.stale} ${word("stale")}` : ""}`));
  return box;
}

function factors(columns) {
  return el("ul", { class: "factors" }, ...columns.map((c) => {
    const bar = el("i", { class: "bar" }, el("i", { class: "fill" }));
    bar.firstChild.style.width = `${Math.min(100, Math.max(0, (c.value ?? 0) * 100))}%`;
    return el("li", {}, el("span", {}, columnWord(c.name)), bar, el("b", {}, figure(c.value, c.name, c.unit)));
  }));
}

// levels as a bar scale: best first, lower is better; the mark is the last closed window, the hollow one the open window
function scale(kpi, name, column) {
  const levels = [...kpi.targets[name]].sort((a, b) => a.value - b.value);
  const now = kpi.windows.find((w) => w.running && w.name === "1h") || kpi.windows.find((w) => w.running);
  const runs = now?.columns.find((c) => c.name === name)?.value ?? null;
  const seen = [column.value, ...levels.map((l) => l.value)].filter((v) => v !== null);
  const single = levels.length === 1;
  let low = single ? 0 : Math.min(...seen), high = Math.max(...seen);
  const margin = (high - low) * 0.18 || Math.abs(high) * 0.1 || 1;
  low = single ? 0 : low - margin; high += margin;
  const place = (v) => `${Math.min(100, Math.max(0, ((v - low) / (high - low)) * 100))}%`;
  const track = el("div", { class: "track" });
  [low, ...levels.map((l) => l.value)].forEach((from, i) => {
    const zone = el("i", { class: `zone z${i === 0 ? "best" : i === levels.length ? "worst" : "middle"}` });
    zone.style.left = place(from); zone.style.right = `calc(100% - ${place(i < levels.length ? levels[i].value : high)})`;
    track.append(zone);
  });
  for (const value of new Set(levels.map((l) => l.value))) {
    const tick = el("span", { class: "tick" }, figure(value));
    tick.style.left = place(value); track.append(tick);
  }
  for (const [value, kind, label] of [[runs, "now", word("running")], [column.value, "mark", word("closed")]]) {
    if (value === null) continue;
    const pin = el("i", { class: `pin ${kind}`, title: `${label} ${figure(value, name, column.unit)}` });
    pin.style.left = place(value); track.append(pin);
  }
  const words = levels.map((l) => {
    const reached = column.value === null ? null : column.value <= l.value;
    const verdict = reached === null ? "—" : `${reached ? "✓" : "✗"} ${word(single ? (reached ? "within" : "exceeded") : reached ? "reached" : "missed")}`;
    const far = column.value === null ? "" : `${column.value - l.value > 0 ? "+" : "−"}${figure(Math.abs(column.value - l.value))}`;
    return el("li", { class: reached === null ? "" : reached ? "yes" : "no" }, el("span", {}, levelWord(l.name)), el("b", {}, figure(l.value)), el("span", {}, far), el("em", {}, verdict));
  });
  return el("div", { class: "scale" }, track, el("ul", {}, ...words));
}

function drawKpis() {
  const box = $("kpis"), at = new Map([...box.querySelectorAll(".scroll")].map((s, i) => [i, s.scrollLeft]));
  box.replaceChildren(...state.kpis.map(card));
  box.querySelectorAll(".scroll").forEach((s, i) => { s.scrollLeft = at.get(i) ?? 0; });
}

// ---- alarms -----------------------------------------------------------------------------------------
function drawAlarms() {
  const open = state.alarms.filter((a) => a.state !== "normal"), heads = ["alarm", "priority", "state", "value", "limit", "since"];
  $("alarms").hidden = !open.length;
  const rows = open.map((a) => {
    const level = a.active ? "bad" : ["returned", "latched", "latched_acknowledged"].includes(a.state) ? "uncertain" : "stale";
    return el("tr", { "data-alarm": a.id }, el("th", { scope: "row" }, a.id), el("td", {}, word(a.priority)),
      el("td", {}, el("span", { class: `tagged ${level}` }, `${SYMBOL[level]} ${word(`is_${a.state}`)}`)),
      ...[a.value, a.limit].map((n) => el("td", { class: "figure" }, n === null ? "—" : `${figure(n)} ${unitWord(a.unit)}`)),
      el("td", { class: "figure" }, at(a.since_ms, DHM)));
  });
  $("alarms").lastElementChild.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((w) => el("th", { scope: "col" }, word(w))))), el("tbody", {}, ...rows)));
}

// ---- live values ------------------------------------------------------------------------------------
const cells = new Map(); // "em-kiln/raw" -> [{ row, value, mark, age }], in the order of the schema
function drawDevices() {
  cells.clear();
  $("devices").replaceChildren(...state.devices.map((device) => {
    const body = el("tbody");
    for (const row of device.rows) {
      const value = el("td", { class: "figure", "data-stream": row.stream, "data-tag": row.tag }), mark = el("td", { class: "quality" }), age = el("td", { class: "age" });
      const label = columnWord(row.tag);
      body.append(el("tr", {}, el("th", { scope: "row" }, el("span", { class: "says" }, label), label === row.tag ? null : el("code", {}, row.tag)), value, el("td", { class: "unit" }, row.kind === "state" || row.kind === "text" ? "" : unitWord(row.unit)), mark, age));
      const list = cells.get(row.stream) ?? [];
      list.push({ row, value, mark, age });
      cells.set(row.stream, list);
    }
    const head = el("h3", {}, device.id, el("em", { class: "tagged", "data-link": device.id }), el("span", { class: "when" }, device.streams.map((s) => `${s.stream.split("/")[1]} ${s.period_s} s`).join(" · ")));
    const heads = ["tag", "value", "unit", "quality", "age"].map((w) => el("th", { scope: "col" }, word(w)));
    return el("article", { class: "device panel", id: `device-${device.id}` }, head,
      device.rows.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": device.id }, el("table", {}, el("thead", {}, el("tr", {}, ...heads)), body)) : el("p", { class: "note" }, word("never")));
  }));
  for (const device of state.devices) for (const stream of device.streams) fill(stream);
  drawLinks();
}

function fill(stream) {
  const stale = staleStream(stream), age = ago(plantNow() - stream.time_ms);
  for (const { row, value, mark, age: old } of cells.get(stream.stream) ?? []) {
    const level = stale ? "stale" : rank(row.quality);
    const text = row.value === null ? "—" : row.kind === "text" ? row.text ?? "—" : row.text ? `${stateWord(row.text)} (${figure(row.value)})` : figure(row.value);
    put(value, text);
    value.title = row.value === null ? "" : `${row.value} ${row.unit}`;
    if (value.className !== `figure ${level}`) value.className = `figure ${level}`;
    value.dataset.value = JSON.stringify(row.value); value.dataset.quality = row.quality; value.dataset.time = stream.time_ns; value.dataset.stale = String(stale);
    put(mark, `${SYMBOL[level]} ${stale ? word("stale") : qualityWord(row.quality_name)}`);
    if (mark.className !== `quality ${level}`) mark.className = `quality ${level}`;
    put(old, age);
  }
}

function drawLinks() {
  for (const device of state.devices) {
    const node = document.querySelector(`[data-link="${CSS.escape(device.id)}"]`);
    const link = state.links.find((l) => l.id === device.link);
    const kind = lost ? "stale" : device.silent ? "silent" : device.state;
    if (!node) continue;
    put(node, `${{ up: "●", starting: "…", stale: SYMBOL.stale }[kind] ?? "✕"} ${word(kind)}`);
    node.className = `tagged ${{ up: "good", starting: "uncertain", stale: "stale" }[kind] ?? "bad"}`;
    node.title = link?.error ?? "";
  }
}

// ---- what is wrong, header ----------------------------------------------------------------------------
function drawHealth() {
  drawDelivery(state, lost, plantNow());
  const faults = Object.entries(state.faults);
  $("faults").hidden = !faults.length;
  $("faults").replaceChildren(...faults.map(([name, text]) => el("p", {}, el("b", {}, `✕ ${name} `), text)));
  drawLinks();
}

function drawHead() {
  if (!state) return;
  put($("clock"), at(plantNow(), FULL) + (state.speed === 1 ? "" : ` ×${state.speed}`));
  const streams = Object.fromEntries(state.devices.flatMap((d) => d.streams.map((s) => [s.stream, staleStream(s)])));
  const values = state.devices.flatMap((d) => d.rows), usable = values.filter((r) => r.quality < 128 && !streams[r.stream]).length;
  put($("complete"), values.length ? `${fixed((usable / values.length) * 100, 1)} % · ${usable}/${values.length}` : "–");
  $("complete").title = word("usable");
  const down = state.links.some((l) => l.state !== "up" || l.silent.length) || state.sinks.some((s) => s.state !== "up");
  const level = lost ? "stale" : !state.ok ? "bad" : down ? "uncertain" : "good";
  put($("health"), `${SYMBOL[level]} ${lost ? word("stale") : state.ok ? word(down ? "partly" : "ok") : word("not_ok")}`);
  $("health").className = level;
}

function drawWords() {
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  document.querySelectorAll("[data-word]").forEach((n) => put(n, word(n.dataset.word)));
  document.querySelectorAll("[data-lang]").forEach((n) => n.setAttribute("aria-pressed", String(n.dataset.lang === lang)));
  $("legend").replaceChildren(...["good", "uncertain", "bad", "stale"].map((q) => el("span", { class: q }, `${SYMBOL[q]} ${word(q)}`)));
  put($("banner"), word("lost"));
}

function drawAll() {
  drawWords();
  if (!state) return;
  put($("site"), state.site.name || state.site.id);
  document.title = state.site.name || state.site.id;
  put($("gateway"), `${state.site.id} · ${state.site.gateway} · ${state.site.timezone}`);
  put($("version"), `edge-agent ${state.site.version}`);
  drawAlarms(); drawKpis(); drawHealth(); drawDevices(); drawHead();
}

// ---- the stream of events ---------------------------------------------------------------------------------
function hear(now_ms) {
  heard = performance.now();
  skew = { at: heard, now: now_ms };
  setLost(false);
}
function setLost(is) {
  if (lost === is) return;
  lost = is;
  $("banner").hidden = !is;
  document.body.classList.toggle("lost", is);
  if (state) { drawKpis(); drawHealth(); drawHead(); for (const d of state.devices) d.streams.forEach(fill); }
}
function take(change) {
  for (const news of change.streams) {
    const device = state.devices.find((d) => d.streams.some((s) => s.stream === news.stream));
    const stream = device.streams.find((s) => s.stream === news.stream);
    Object.assign(stream, { time_ms: news.time_ms, time_ns: news.time_ns });
    device.rows.filter((r) => r.stream === news.stream).forEach((row, i) => {
      Object.assign(row, { value: news.value[i], quality: news.quality[i], quality_name: news.quality_name[i], text: news.text[row.tag] ?? null });
    });
    fill(stream);
  }
  for (const kpi of change.kpis) {
    const i = state.kpis.findIndex((k) => k.id === kpi.id);
    if (i < 0) state.kpis.push(kpi); else state.kpis[i] = kpi;
  }
  if (change.kpis.length) drawKpis();
  state.alarms = change.alarms;
  drawAlarms();
  if (change.sinks) {
    Object.assign(state, { ok: change.ok, faults: change.faults, links: change.links, sinks: change.sinks, log: change.log });
    for (const device of state.devices) {
      const link = state.links.find((l) => l.id === device.link);
      if (link) Object.assign(device, { state: link.state, silent: link.silent.includes(device.id) });
    }
    drawHealth();
  }
  drawHead();
}
function connect() {
  source?.close();
  heard = performance.now();
  source = new EventSource("/api/v1/live");
  source.addEventListener("state", (e) => { state = JSON.parse(e.data); setZone(state.site.timezone); hear(state.now_ms); drawAll(); });
  source.addEventListener("change", (e) => { const change = JSON.parse(e.data); hear(change.now_ms); take(change); });
  source.addEventListener("error", () => setLost(true)); // the browser tries again by itself, unless it was refused
}
setInterval(() => {
  if (performance.now() - heard > SILENCE) { setLost(true); connect(); }
  if (!state) return;
  drawHead();
  drawDelivery(state, lost, plantNow());
  for (const device of state.devices) device.streams.forEach(fill);
  if (state.kpis.some((k) => k.windows.some((w) => w.running))) {
    document.querySelectorAll("#kpis article").forEach((node, i) => tick(node, state.kpis[i]));
  }
}, 1000);
// how much of an open window has passed goes on between two rows, and a closed one grows old
function tick(node, kpi) {
  const rows = node.querySelector("tbody").children;
  kpi.windows.forEach((window, i) => rows[i]?.querySelector("th").replaceWith(windowName(window)));
}
document.querySelectorAll("[data-lang]").forEach((b) => b.addEventListener("click", () => { speak(b.dataset.lang); drawAll(); }));
drawAll();
connect();
