// The scale of one scalar: logarithmic, linear, or a percentage; the same for all arms.

import { number, onAxis, percent } from "gammabeta/format.js";

/** @typedef {import("gammabeta/run.js").Run} Run */

/** Names of what is a share, and so is shown in percent if it never leaves 0 … 1. */
const SHARES = /acc|auc|precision|recall|f1|iou|dice|share|fraction|percent|top.?\d|hit/i;
/** Values above this are cut off on a logarithmic scale, so that a diverging arm does not flatten the others. */
const HIGHEST_DECADE = 4;

export class Scale {
  /**
   * @param {Run} run
   * @param {string} name
   */
  constructor(run, name) {
    this.name = name;
    let low = Infinity;
    let high = -Infinity;
    for (const arm of run.arms) {
      for (const value of run.curve(arm.id, name)?.values ?? []) {
        if (value === null) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    this.empty = low > high;
    const loss = /loss|perplexity|^ppl/i.test(name);
    this.percent = !this.empty && SHARES.test(name) && !loss && low >= 0 && high <= 1;
    this.log = low > 0 && !this.percent && (loss || high / low > 200);
    if (this.percent) [low, high] = [0, 1];
    if (this.log) {
      const bottom = Math.max(loss ? -6 : -30, Math.floor(Math.log10(low) + 1e-9));
      const most = Math.ceil(Math.log10(high) - 1e-9);
      const top = loss ? Math.min(Math.max(HIGHEST_DECADE, bottom + 1), most) : most;
      [low, high] = [bottom, Math.max(bottom + 1, top)];
    } else if (high === low) [low, high] = [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
    this.low = this.empty ? 0 : low;
    this.high = this.empty ? 1 : high;
  }

  /**
   * Where a value is: 0 at the bottom, 1 at the top.
   * @param {number} value
   */
  share(value) {
    const at = this.log ? Math.log10(Math.max(value, 1e-45)) : value;
    return Math.min(1, Math.max(0, (at - this.low) / (this.high - this.low)));
  }

  /** @returns {[value: number, text: string][]} */
  ticks() {
    if (this.percent) return [0, 0.5, 1].map((share) => [share, percent(share)]);
    if (this.log) {
      const every = Math.ceil((this.high - this.low) / 3);
      /** @type {[number, string][]} */
      const ticks = [];
      for (let decade = this.low; decade <= this.high; decade += every) {
        ticks.push([10 ** decade, decade < -3 || decade > 4 ? `1e${decade}`.replace("-", "−") : String(10 ** decade)]);
      }
      return ticks;
    }
    return [this.low, (this.low + this.high) / 2, this.high].map((value) => [value, onAxis(value, this.low, this.high)]);
  }

  /**
   * A value in words.
   * @param {number | null | undefined} value
   */
  words(value) {
    return this.percent ? percent(value) : number(value);
  }
}
