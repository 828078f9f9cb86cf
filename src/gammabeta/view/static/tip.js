// The numbers beside the pointer, and how a signal's fields are listed.

import { element } from "gammabeta/dom.js";
import { number, percent, STAGE_NAMES } from "gammabeta/format.js";

/** @typedef {import("gammabeta/run.js").Signal} Signal */
/** @typedef {import("gammabeta/run.js").Field} Field */
/** @typedef {{title: string, rows: [name: string, value: string, meaning?: string][]}} Words */

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
 * @param {number} layer
 * @param {string} stage
 * @param {number} step
 * @param {Signal | undefined} signal
 * @param {Field[]} fields
 * @returns {Words}
 */
export function signalWords(layer, stage, step, signal, fields) {
  const title = `layer ${layer} · ${STAGE_NAMES[stage] ?? stage} · step ${step}`;
  return { title, rows: signal ? signalRows(signal, fields) : [["", "not recorded"]] };
}

/**
 * The label, the value and the description of each field, without shares of 0.
 * @param {Signal} signal
 * @param {Field[]} fields
 * @returns {[string, string, string][]}
 */
export function signalRows(signal, fields) {
  /** @type {[string, string, string][]} */
  const rows = [];
  for (const { name, label, description, unit, show, optional } of fields) {
    /** @type {number | null} */
    const value = /** @type {Record<string, any>} */ (signal)[name];
    const text = optional && value === null ? "" : shown(value, show, signal);
    if (text) rows.push([label, text, unit ? `${description} (${unit})` : description]);
  }
  return rows;
}

/**
 * A value as text; empty for a share of 0.
 * @param {number | null} value
 * @param {Field["show"]} show
 * @param {Signal} signal
 */
function shown(value, show, signal) {
  if (show === "number") return number(value);
  if (show === "percent") return percent(value);
  if (!value) return "";
  const { count, counts, under, over } = signal;
  return percent(value / (show === "share of values" ? count : counts.reduce((sum, each) => sum + each, under + over)));
}
