// Does the data arrive, is anything lost or refused, how long until a sink has caught up, how full is the store.
import { $, DHM, FULL, SYMBOL, ago, at, el, figure, fixed, put, size } from "./draw.js";
import { lang, reason, say, unitWord, word } from "./words.js";

const LATE = 30; // s of plant time at real speed that a sink may be behind and still counts as up to date
const RECENT = 600000; // ms of plant time for which a refusal is news
const PATIENCE = 60000; // ms after which rows that do not get fewer are told
const LISTED = 50; // refusals that are shown, the newest
const SELDOM = 2000; // ms between two questions for a list that is open
const HEADS = ["sink", "state", "behind", "pending", "delivered", "refused", "dropped"];
const LISTS = { refused: listRefused, dropped: listDropped };
let rows = new Map(), drawn = ""; // by sink: its nodes; what they were made for
const opened = new Map(); // sink -> "refused" or "dropped": what is shown below it

// ---- what is to be said of a sink ---------------------------------------------------------------------
function judge(sink, state, now, lost) {
  if (lost) return { level: "stale", symbol: SYMBOL.stale, label: word("stale") };
  if (sink.state === "starting") return { level: "uncertain", symbol: "…", label: word("starting") };
  if (sink.state !== "up") return { level: "bad", symbol: SYMBOL.bad, label: sink.since_ms ? `${word(sink.state)} ${ago(now - sink.since_ms)}` : word(sink.state), away: true };
  const late = sink.backlog > 0 || sink.behind_s > LATE * Math.max(1, state.speed);
  if (late) return { level: "uncertain", symbol: SYMBOL.uncertain, label: word("catching_up"), late };
  if (sink.refused_ms !== null && now - sink.refused_ms < RECENT) return { level: "uncertain", symbol: SYMBOL.uncertain, label: word("refuses"), refuses: true };
  return { level: "good", symbol: SYMBOL.good, label: word("up") };
}

function remarks(sink, state, now, is) {
  const lines = [], room = state.log.room_s, left = room === null ? null : room - sink.behind_s;
  if (sink.error) lines.push(["bad", reason(sink.error)]);
  if (is.away && sink.lag) {
    const more = sink.markers ? word("store_full") : left !== null && left > 0 ? say("room_more", ago(left * 1000)) : "";
    lines.push([sink.markers ? "bad" : "", [say("kept_here", figure(sink.lag)), more].filter(Boolean).join(word("comma"))]);
  }
  if (is.late) lines.push(["", catching(sink, now)]);
  if (sink.refused && sink.last_refusal) lines.push(["uncertain", say("last_refusal", reason(sink.last_refusal))]);
  if (!sink.conserved) lines.push(["bad", word("sink_not_conserved")]);
  return lines;
}

function catching(sink, now) {
  const left = sink.remaining_s === null ? null : ago(Math.max(1, sink.remaining_s) * 1000);
  const stuck = left === null && now - sink.since_ms > PATIENCE;
  if (sink.backlog) {
    const live = say("live_arrives", figure(Math.max(0, sink.lag - sink.backlog)));
    return [say(stuck ? "backlog_stuck" : "backlog", figure(sink.backlog)), left && say("about", left), live].filter(Boolean).join(word("comma"));
  }
  return [say(stuck ? "not_keeping_up" : "rows_behind", figure(sink.lag)), left && say("about", left)].filter(Boolean).join(word("comma"));
}

function verdict(state, now, lost) {
  const judged = state.sinks.map((s) => [s, judge(s, state, now, lost)]), rank = ["good", "uncertain", "bad", "stale"];
  const level = rank[Math.max(0, ...judged.map(([, is]) => rank.indexOf(is.level)))];
  if (level === "stale") return { level, said: [word("stale")], losses: [] };
  const said = [...judged.filter(([, is]) => is.away).map(([s]) => (s.since_ms ? say("sink_down", s.id, ago(now - s.since_ms)) : `${s.id} ${word(s.state)}`)),
    ...judged.filter(([, is]) => is.late).map(([s]) => say("sink_late", s.id)), ...judged.filter(([, is]) => is.refuses).map(([s]) => say("sink_refuses", s.id))];
  if (!said.length) said.push(word(level !== "good" ? "starting" : state.sinks.some((s) => s.refused || s.dropped) ? "arrives_now" : "arrives"));
  const losses = [["refused", state.sinks.reduce((sum, s) => sum + s.refused, 0)], ["dropped", Math.max(...state.sinks.map((s) => s.dropped))]];  // a row that left the log is missing everywhere
  return { level, said, losses };
}

function drawVerdict(state, now, lost) {
  const { level, said, losses } = verdict(state, now, lost), symbol = SYMBOL[level];
  put($("arrival"), `${symbol} ${[...said, ...losses.map(([what, n]) => (n ? say(`some_${what}`, figure(n)) : word(`none_${what}`)))].join(" · ")}`);
  $("arrival").className = level;
  const more = said.length > 1 ? [`+${said.length - 1}`] : [];
  put($("arriving"), `${symbol} ${[said[0], ...more, ...losses.filter(([, n]) => n).map(([what, n]) => say(`some_${what}`, figure(n)))].join(" · ")}`);
  $("arriving").className = level;
}

// ---- one row for each sink, drawn once and then kept up to date ------------------------------------------
function build(sinks) {
  rows = new Map();
  const body = sinks.flatMap((sink) => {
    const cells = Object.fromEntries(["behind", "lag", "delivered"].map((n) => [n, el("td", { class: "figure", "data-label": word(n === "lag" ? "pending" : n) })]));
    for (const name of ["lag", "delivered"]) cells[name].dataset.count = name;
    for (const name of ["refused", "dropped"]) {
      cells[name] = el("button", { type: "button", "data-count": name, "aria-expanded": "false" });
      cells[name].addEventListener("click", () => toggle(sink.id, name));
    }
    const tag = el("span", { class: "tagged" }), says = el("td", { colspan: HEADS.length }), list = el("td", { colspan: HEADS.length });
    const kind = word(`kind_${sink.kind}`);
    const head = el("th", { scope: "row" }, el("b", {}, sink.id), el("span", { class: "when" }, kind.startsWith("kind_") ? sink.kind : kind));
    const line = el("tr", { class: "line", "data-sink": sink.id }, head, el("td", {}, tag), cells.behind, cells.lag, cells.delivered,
      ...["refused", "dropped"].map((n) => el("td", { class: "figure", "data-label": word(n) }, cells[n])));
    const below = el("tr", { class: "remarks", "data-says": sink.id }, says), open = el("tr", { class: "list", "data-list": sink.id }, list);
    rows.set(sink.id, { cells, tag, says, list, below, open, seen: "" });
    return [line, below, open];
  });
  const heads = HEADS.map((w) => el("th", { scope: "col" }, word(w)));
  $("sinks").replaceChildren(el("p", { id: "arrival" }), el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...body)), el("div", { id: "store" }));
}

export function drawDelivery(state, lost, now) {
  const made = `${lang} ${state.sinks.map((s) => `${s.id}/${s.kind}`).join(" ")}`;
  if (drawn !== made) { build(state.sinks); drawn = made; }
  for (const sink of state.sinks) drawSink(sink, state, now, lost);
  drawVerdict(state, now, lost);
  drawStore(state.log);
  const log = state.log;
  put($("log"), `${log.conserved ? "✓" : "✗"} ${word(log.conserved ? "conserved" : "not_conserved")} · ${figure(log.appended)} ${word("rows")} = ${figure(log.read)} ${word("read")} + ${figure(log.substituted)} ${word("substituted")} + ${figure(log.derived)} ${word("derived")}`);
}

function drawSink(sink, state, now, lost) {
  const node = rows.get(sink.id), is = judge(sink, state, now, lost);
  put(node.tag, `${is.symbol} ${is.label}`);
  node.tag.className = `tagged ${is.level}`;
  put(node.cells.behind, is.late || is.away ? ago(sink.behind_s * 1000) : is.level === "good" || is.refuses ? word("up_to_date") : "–");
  for (const name of ["lag", "delivered", "refused", "dropped"]) {
    const cell = node.cells[name], count = sink[name];
    put(cell, figure(count));
    cell.dataset.value = count;
    if (name !== "refused" && name !== "dropped") continue;
    cell.disabled = count === 0;
    cell.className = count ? "uncertain" : "";
    cell.setAttribute("aria-expanded", String(opened.get(sink.id) === name));
  }
  const lines = remarks(sink, state, now, is), said = JSON.stringify(lines);
  if (node.said !== said) {
    node.said = said;
    node.says.replaceChildren(...lines.map(([level, text]) => el("p", { class: level }, text)));
    node.below.hidden = !lines.length;
  }
  drawList(sink, node);
}

// ---- what is opened below a sink ---------------------------------------------------------------------------
function toggle(id, name) {
  if (opened.get(id) === name) opened.delete(id); else opened.set(id, name);
  for (const [sink, node] of rows) {
    node.seen = "";
    for (const n of ["refused", "dropped"]) node.cells[n].setAttribute("aria-expanded", String(opened.get(sink) === n));
  }
  const { cells } = rows.get(id);
  drawList({ id, refused: cells.refused.dataset.value, dropped: cells.dropped.dataset.value }, rows.get(id));
}

async function drawList(sink, node) {
  const name = opened.get(sink.id);
  node.open.hidden = !name;
  const wanted = name ? `${name} ${sink[name]}` : "", now = performance.now();
  if (!name || node.seen === wanted) return;
  const same = node.seen.startsWith(`${name} `); // more of what is read just now can wait
  if (same && (now - node.asked < SELDOM || node.list.querySelector("details[open]") || node.list.querySelector(".scroll")?.scrollTop)) return;
  Object.assign(node, { seen: wanted, asked: now });
  try {
    const answer = await fetch(`/api/v1/${name}?sink=${encodeURIComponent(sink.id)}${name === "refused" ? `&most=${LISTED}` : ""}`);
    if (!answer.ok) throw new Error((await answer.json()).error);
    const found = await answer.json();
    if (opened.get(sink.id) === name) node.list.replaceChildren(...LISTS[name](found, Number(node.cells[name].dataset.value)));
  } catch (e) {
    node.list.replaceChildren(el("p", { class: "bad" }, e.message));
  }
}

function grid(heads, body) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads.map(word).join(" ") },
    el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((w) => el("th", { scope: "col" }, word(w))))), el("tbody", {}, ...body)));
}

const DMYS = { ...DHM, second: "2-digit" };
function when(from, to) {
  if (from === to) return at(from, DMYS);
  const day = (ms) => at(ms, { month: "2-digit", day: "2-digit" });
  return `${at(from, DMYS)} – ${day(from) === day(to) ? at(to, { hour: "2-digit", minute: "2-digit", second: "2-digit" }) : at(to, DMYS)}`;
}

function listDropped(found, total) {
  const listed = found.reduce((sum, gap) => sum + gap.rows, 0);
  const body = found.map((gap) => el("tr", {}, el("td", {}, when(gap.from_ms, gap.to_ms)), el("td", {}, gap.stream), el("td", { class: "figure" }, figure(gap.rows)),
    el("td", { class: "why" }, word(`gap_${gap.reason}`), el("span", { class: "when" }, word(gap.told ? "gap_told" : "gap_waits")))));
  const rest = total > listed ? el("p", { class: "note" }, say("more_dropped", figure(listed), figure(total))) : null;
  return [found.length ? grid(["rows_of", "stream", "rows", "why"], body) : null, rest].filter(Boolean);
}

function listRefused(found, total) {
  const body = found.refused.flatMap((r) => [
    el("tr", {}, el("td", {}, r.time_ms.length ? when(r.time_ms[0], r.time_ms.at(-1)) : "–"), el("td", {}, r.stream), el("td", { class: "figure" }, figure(r.rows)),
      el("td", { class: "why" }, reason(r.reason), el("span", { class: "when" }, `${word("refused_at")} ${at(r.at_ms, DMYS)}`))),
    el("tr", { class: "values" }, el("td", { colspan: 4 }, values(r)))]);
  const listed = found.refused.reduce((sum, r) => sum + r.rows, 0);
  const all = el("a", { href: `/api/v1/refused?sink=${encodeURIComponent(found.refused[0]?.sink ?? "")}&most=200` }, word("all_kept"));
  const rest = el("p", { class: "note" }, ...(total > listed ? [say("more_refused", figure(listed), figure(total)), " "] : []), found.next === null ? "" : all);
  return [found.refused.length ? grid(["rows_of", "stream", "rows", "why"], body) : null, rest.textContent ? rest : null].filter(Boolean);
}

// the first refused row, what the reason names first; the others of the same refusal are below /api/v1/refused
function values(refusal) {
  const named = (c) => (refusal.reason.includes(c.name) ? 0 : 1);
  const told = [...refusal.columns].sort((a, b) => named(a) - named(b)).map((c) => {
    const value = refusal.value[c.name][0], quality = refusal.quality[c.name][0], level = quality >= 128 ? "bad" : "uncertain";
    const unit = value === null || c.kind === "state" ? "" : ` ${unitWord(c.unit)}`;
    return el("span", { class: "cell", title: value }, el("code", {}, c.name), ` ${figure(value)}${unit}`, quality >= 64 ? el("i", { class: `mark ${level}`, title: word(level) }, SYMBOL[level]) : null);
  });
  if (told.length <= 6) return el("div", { class: "cells" }, ...told);
  return el("details", { class: "cells" }, el("summary", {}, ...told.slice(0, 5), el("span", { class: "when" }, say("and_more", told.length - 5))), ...told.slice(5));
}

// ---- the store ------------------------------------------------------------------------------------------------
function drawStore(log) {
  const said = JSON.stringify([lang, log.raw_bytes, log.derived_bytes, log.oldest_ms, log.room_s && Math.round(log.room_s / 3600), log.set_aside]);
  if ($("store").dataset.said === said) return;
  $("store").dataset.said = said;
  const share = log.raw_bytes / Math.max(1, log.raw_budget_bytes);
  const back = log.oldest_ms === null ? null : say("goes_back", at(log.oldest_ms, DHM), ago(log.kept_s * 1000));
  const room = log.room_s === null ? null : say("can_be_away", ago(log.room_s * 1000));
  const texts = [say("store_raw", size(log.raw_bytes), size(log.raw_budget_bytes), fixed(share * 100, 1)), back, say("store_derived", size(log.derived_bytes), size(log.derived_budget_bytes)), room];
  $("store").replaceChildren(
    el("b", {}, word("store")), el("progress", { max: 1, value: share.toFixed(4), "aria-label": word("store") }),
    el("span", {}, texts.filter(Boolean).join(" · ")),
    ...log.set_aside.map((f) => el("p", { class: "uncertain", "data-aside": f.name }, `${SYMBOL.uncertain} ${say("set_aside", f.name, size(f.bytes), at(f.time_ms, FULL))}`)));
}
