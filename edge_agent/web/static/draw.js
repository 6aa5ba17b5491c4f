// What all parts of the page draw with: elements, numbers, times.
import { lang, unitWord } from "./words.js";

export const $ = (id) => document.getElementById(id);
export const SYMBOL = { good: "●", uncertain: "▲", bad: "✕", stale: "◷" };
export const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value; else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}

// ---- numbers and times ------------------------------------------------------------------------
const SHARES = new Set(["gap_share", "not_producing_share", "coverage", "estimated", "availability", "effectiveness", "quality_ratio", "oee", "nee", "teep", "utilization_efficiency",
  "technical_efficiency", "allocation_efficiency", "setup_ratio", "scrap_ratio", "rework_ratio"]);
export function figure(value, name = "", unit = "") {
  if (value === null || value === undefined) return "—";
  if (SHARES.has(name) && (unit === "1" || unit === "")) return `${fixed(value * 100, 1)} %`;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e15) return fixed(value, 0);
  return fixed(value, size >= 10000 ? 0 : size >= 1000 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : 5);
}
export const fixed = (value, digits) => value.toLocaleString(lang === "zh" ? "zh-CN" : "en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const shownUnit = (name, unit) => (SHARES.has(name) && unit === "1" ? "" : unitWord(unit));
let zone = "UTC"; // the site's
export function setZone(name) { zone = name; }
export function at(ms, options) {
  if (ms === null) return "–";
  return new Intl.DateTimeFormat(lang === "zh" ? "zh-CN" : "en-GB", { timeZone: zone, hourCycle: "h23", ...options }).format(ms);
}
export const HM = { hour: "2-digit", minute: "2-digit" };
export const DHM = { month: "2-digit", day: "2-digit", ...HM };
export const FULL = { year: "numeric", ...DHM, second: "2-digit" };
export function ago(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 100) return `${Math.floor(s)} s`;
  if (s < 6000) return `${Math.floor(s / 60)} min`;
  return s < 172800 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`;
}
export function size(bytes) {
  let number = bytes, unit = 0;
  for (; number >= 1024 && unit < 4; unit++) number /= 1024;
  return `${fixed(number, unit && number < 100 ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}
