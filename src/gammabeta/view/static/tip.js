// Numbers beside the pointer.

import { element } from "gammabeta/dom.js";
import { number, percent, STAGE_NAMES } from "gammabeta/format.js";

/** @typedef {import("gammabeta/run.js").Signal} Signal */
/** @typedef {{title: string, rows: [string, string][]}} Words */

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
 * @returns {Words}
 */
export function signalWords(layer, stage, step, signal) {
  const title = `layer ${layer} · ${STAGE_NAMES[stage] ?? stage} · step ${step}`;
  return { title, rows: signal ? signalRows(signal) : [["", "not recorded"]] };
}

/**
 * @param {Signal} s
 * @returns {[string, string][]}
 */
export function signalRows(s) {
  const total = s.counts.reduce((sum, count) => sum + count, s.under + s.over);
  /** @type {[string, string][]} */
  const rows = [
    ["mean", number(s.mean)],
    ["std", number(s.std)],
    ["15th percentile", number(s.p15)],
    ["median", number(s.p50)],
    ["85th percentile", number(s.p85)],
    ["smallest", number(s.minimum)],
    ["largest", number(s.maximum)],
  ];
  if (s.saturated !== null) rows.push(["saturated", percent(s.saturated)]);
  if (s.dead !== null) rows.push(["dead units", percent(s.dead)]);
  if (s.gradient !== null) rows.push(["gradient norm", number(s.gradient)]);
  if (s.zeros > 0 && total > 0) rows.push(["exactly 0", percent(s.zeros / total)]);
  if (s.under + s.over > 0) rows.push(["off the axis", percent((s.under + s.over) / total)]);
  if (s.nonfinite > 0) rows.push(["not finite", percent(s.nonfinite / s.count)]);
  return rows;
}
