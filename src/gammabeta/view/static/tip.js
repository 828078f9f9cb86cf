// The numbers beside the pointer, and how a signal's fields are listed.

import { element } from "gammabeta/dom.js";
import { number, percent, STAGE_NAMES } from "gammabeta/format.js";

/** @typedef {import("gammabeta/store.js").Store} Store */
/** @typedef {import("gammabeta/run.js").Field} Field */
/** @typedef {{title: string, rows: [name: string, value: string, meaning?: string][], prose?: boolean}} Words */

export class Tip {
  constructor() {
    this.element = element("div", { class: "tip", hidden: "" });
    document.body.append(this.element);
  }

  /**
   * @param {Words} words
   * @param {{clientX: number, clientY: number}} at
   */
  show(words, at) {
    const list = element("dl");
    for (const [name, value] of words.rows) list.append(element("dt", {}, name), element("dd", {}, value));
    this.element.classList.toggle("prose", words.prose === true);
    this.element.replaceChildren(element("b", {}, words.title), list);
    this.element.hidden = false;
    const box = this.element.getBoundingClientRect();
    const x = Math.min(at.clientX + 14, innerWidth - box.width - 6);
    const below = at.clientY + 16;
    const y = below + box.height > innerHeight ? at.clientY - box.height - 12 : below;
    this.element.style.left = `${Math.max(4, x)}px`;
    this.element.style.top = `${Math.max(4, y)}px`;
  }

  hide() {
    this.element.hidden = true;
  }
}

/**
 * @param {Store} store
 * @param {import("gammabeta/rows.js").Row} row
 * @param {string} stage
 * @param {string} when
 * @param {number} frame
 * @param {number | undefined} probe
 * @returns {Words}
 */
export function signalWords(store, row, stage, when, frame, probe) {
  const title = `${row.title} · ${STAGE_NAMES[stage] ?? stage} · ${when}`;
  const rows = probe === undefined ? [] : signalRows(store, frame, probe);
  return { title, rows: rows.length ? rows : [["", "not recorded"]] };
}

/**
 * The label, the value and the description of each field, without shares of 0; the mean with its
 * standard error.
 * @param {Store} store
 * @param {number} frame
 * @param {number} probe
 * @returns {[string, string, string][]}
 */
export function signalRows(store, frame, probe) {
  /** @type {[string, string, string][]} */
  const rows = [];
  if (frame < 0 || !(store.get("count", frame, probe) > 0)) return rows;
  for (const { name, label, description, unit, show, optional } of store.run.fields) {
    if (!label || name === "stderr") continue;
    if (!store.column(name)) continue; // it is on its way
    const value = store.get(name, frame, probe);
    let text = optional && Number.isNaN(value) ? "" : shown(store, value, show, frame, probe);
    const error = name === "mean" ? store.get("stderr", frame, probe) : NaN;
    if (error > 0) text += ` ± ${number(Number(error.toPrecision(2)))}`;
    if (text) rows.push([label, text, unit ? `${description} (${unit})` : description]);
  }
  return rows;
}

/**
 * A value as text; empty for a share of 0.
 * @param {Store} store
 * @param {number} value
 * @param {Field["show"]} show
 * @param {number} frame
 * @param {number} probe
 */
function shown(store, value, show, frame, probe) {
  if (show === "number") return number(value);
  if (show === "percent") return percent(value);
  if (!(value > 0)) return "";
  const count = store.get("count", frame, probe);
  const sampled = store.get("sampled", frame, probe);
  const finite = (sampled > 0 ? sampled : count) * (1 - Math.max(0, store.get("nonfinite", frame, probe)) / count);
  return percent(value / (show === "share of values" ? count : finite));
}
