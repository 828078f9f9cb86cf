// The geometry of the strips below the cells: positions of frames, losses and layers.

import { lastAtOrBefore } from "gammabeta/run.js";

/** @typedef {import("gammabeta/run.js").Run} Run */

const LOSS = 74;
const ACCURACY = 54;
const GAP = 17; // space for the name of the strip below
export const FOOT = 18;
export const TOP = 14;
/** Losses above this are cut off, so that a diverging arm does not flatten the other. */
const HIGHEST_DECADE = 4;

export class Timeline {
  /** @param {Run} run */
  constructor(run) {
    this.run = run;
    this.left = 56;
    this.right = 118;
    this.width = 0;
    /** Whole decades that hold the losses. @type {[number, number] | null} */
    this.decades = null;
    /** The losses' range, if one of them is not positive. @type {[number, number] | null} */
    this.linear = null;
  }

  get hasLoss() {
    return this.decades !== null || this.linear !== null;
  }

  /** @param {number} width */
  layout(width) {
    const narrow = width < 640;
    this.width = width;
    this.left = narrow ? 34 : 56;
    this.right = narrow ? 12 : 118;
  }

  /** The right end of the curves. */
  get end() {
    return this.width - this.right;
  }

  get lossBottom() {
    return TOP + LOSS;
  }

  get accuracyTop() {
    return TOP + LOSS + GAP;
  }

  get accuracyBottom() {
    return this.accuracyTop + ACCURACY;
  }

  get hasAccuracy() {
    return this.run.arms.some((arm) => this.run.curve(arm.id, "accuracy"));
  }

  get mapTop() {
    return (this.hasAccuracy ? this.accuracyBottom : this.lossBottom) + GAP;
  }

  get height() {
    return this.mapRow(this.run.arms.length) + FOOT;
  }

  get rowHeight() {
    const rows = this.run.arms.reduce((sum, arm) => sum + this.layers(arm.id), 0);
    return Math.max(2, Math.min(9, Math.floor(150 / Math.max(1, rows))));
  }

  /**
   * Top of an arm's rows in the map.
   * @param {number} index of the arm
   */
  mapRow(index) {
    const above = this.run.arms.slice(0, index).reduce((sum, arm) => sum + this.layers(arm.id), 0);
    return this.mapTop + above * this.rowHeight + index * 4;
  }

  /** @param {number} arm */
  layers(arm) {
    return this.run.probes.reduce((most, p) => (p.arm === arm ? Math.max(most, p.layer) : most), 0);
  }

  /** @param {number} frame */
  x(frame) {
    const span = Math.max(1, this.run.length - 1);
    return this.left + (frame / span) * (this.end - this.left);
  }

  /** @param {number} x */
  frameAt(x) {
    const share = (x - this.left) / (this.end - this.left);
    return Math.round(Math.min(1, Math.max(0, share)) * Math.max(0, this.run.length - 1));
  }

  /**
   * Position of a step between frames.
   * @param {number} step
   */
  frameOf(step) {
    const steps = this.run.steps;
    const i = lastAtOrBefore(steps.length, (k) => /** @type {number} */ (steps[k]), step);
    const here = steps[i];
    const next = steps[i + 1];
    if (here === undefined) return 0;
    return next === undefined ? i : i + (step - here) / (next - here);
  }

  /** Recompute the scale of the losses: logarithmic, unless one is not positive. */
  scaleLosses() {
    let low = Infinity;
    let high = -Infinity;
    for (const arm of this.run.arms) {
      for (const value of this.run.curve(arm.id, "loss")?.values ?? []) {
        if (value === null) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
    this.decades = this.linear = null;
    if (low > high) return;
    if (low <= 0) {
      this.linear = [low, high > low ? high : low + 1];
      return;
    }
    const bottom = Math.max(-6, Math.floor(Math.log10(low)));
    const top = Math.min(Math.max(HIGHEST_DECADE, bottom + 1), Math.ceil(Math.log10(high)));
    this.decades = [bottom, Math.max(bottom + 1, top)];
  }

  /** @param {number} loss */
  lossY(loss) {
    const [low, high] = this.linear ?? this.decades ?? [0, 1];
    const share = ((this.linear ? loss : Math.log10(Math.max(loss, 1e-30))) - low) / (high - low);
    return this.lossBottom - LOSS * Math.min(1, Math.max(0, share));
  }

  /** @param {number} accuracy */
  accuracyY(accuracy) {
    return this.accuracyBottom - ACCURACY * accuracy;
  }
}
