// Where everything is in the strips over time: curves on top, the map of the rows below, one axis.

import { Scale } from "gammabeta/scale.js";

/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/clock.js").Clock} Clock */
/** @typedef {{name: string, scale: Scale, top: number, height: number}} Band a curve's place */
/** @typedef {{arm: number, base: number | null, top: number, height: number, from: number, to: number}} Plot a map's place */

const GAP = 17; // space for the name of the strip below
export const FOOT = 18;
const TOP = 14;
/** Height of the lane of the doctor's verdicts. */
const LANE = 18;
/** Curves that share the axis of the map; the others are small multiples. */
export const STACKED = 2;
/** Height of the maps together, if the run has many rows. */
const MAPS = 210;

export class Timeline {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {Clock} clock
   */
  constructor(run, clock) {
    this.run = run;
    this.clock = clock;
    this.left = 56;
    this.right = 118;
    this.width = 0;
    /** Whether the page shows few rows, the first at the bottom. */
    this.few = true;
    /** The arms whose maps are shown, and what each is compared with. @type {[arm: number, base: number | null][]} */
    this.maps = [];
    /** @type {Band[]} */
    this.bands = [];
    /** @type {Plot[]} */
    this.plots = [];
    this.mapTop = 0;
    /** Where the curves begin. */
    this.top = TOP;
    this.height = 0;
    this.rowHeight = 9;
  }

  /** @param {number} width */
  layout(width) {
    const narrow = width < 640;
    const { run } = this;
    this.width = width;
    this.left = narrow ? (this.few ? 34 : 64) : this.few ? 56 : 104;
    this.right = narrow ? 12 : this.few ? 118 : 170;
    const sizes = this.few ? [74, 54] : [52, 40];
    this.top = TOP + (run.verdicts.length ? LANE : 0);
    let y = this.top;
    this.bands = run.scalarNames.slice(0, STACKED).map((name, i) => {
      const band = { name, scale: new Scale(run, name), top: y, height: sizes[i] ?? 40 };
      y += band.height + GAP;
      return band;
    });
    this.mapTop = y + (this.bands.length && !this.few ? 8 : 0);
    const total = this.maps.reduce((sum, [arm]) => sum + run.rows.depth(arm), 0);
    const fits = Math.floor((this.few ? 150 : MAPS) / Math.max(1, total));
    this.rowHeight = Math.max(this.few ? 2 : 0, Math.min(9, fits)) || MAPS / Math.max(1, total);
    this.plots = [];
    let top = this.mapTop;
    for (const [arm, base] of this.maps) {
      const count = run.rows.depth(arm);
      const height = Math.max(4, Math.round(count * this.rowHeight));
      this.plots.push({ arm, base, top, height, from: 0, to: count });
      top += height + 4;
    }
    this.height = (this.plots.length ? top : y) + FOOT;
  }

  /** The right end of the curves. */
  get end() {
    return this.width - this.right;
  }

  /** @param {number} tick */
  x(tick) {
    return this.left + this.clockShare(tick) * (this.end - this.left);
  }

  /**
   * Where a tick is: 0 at the first, 1 at the last. Steps have equal distances, seconds their own.
   * @param {number} tick
   */
  clockShare(tick) {
    const { at, length, mode } = this.clock;
    if (mode === "step" || length < 2) return tick / Math.max(1, length - 1);
    const whole = Math.floor(tick);
    const a = at[whole] ?? 0;
    const b = at[whole + 1] ?? a;
    const first = at[0] ?? 0;
    return (a + (b - a) * (tick - whole) - first) / Math.max(1e-9, (at[length - 1] ?? 1) - first);
  }

  /** @param {number} x */
  tickAt(x) {
    return this.tickOf(Math.min(1, Math.max(0, (x - this.left) / Math.max(1, this.end - this.left))));
  }

  /** @param {number} share 0 … 1 */
  tickOf(share) {
    const { at, length, mode } = this.clock;
    if (mode === "step" || length < 2) return Math.round(share * Math.max(0, length - 1));
    const first = at[0] ?? 0;
    const position = first + share * ((at[length - 1] ?? 1) - first);
    const tick = Math.max(0, this.clock.tickAt(position));
    const next = at[tick + 1];
    return next !== undefined && next - position < position - (at[tick] ?? 0) ? tick + 1 : tick;
  }

  /** The tick at each column of a picture. @param {number} columns */
  ticksOf(columns) {
    return Array.from({ length: columns }, (_, i) => this.tickOf((i + 0.5) / columns));
  }

  /**
   * Which row of which plot is at a height, if any.
   * @param {number} y
   * @param {(arm: number) => Row[]} rowsOf
   */
  rowAt(y, rowsOf) {
    for (const plot of this.plots) {
      if (y < plot.top || y >= plot.top + plot.height) continue;
      const rows = rowsOf(plot.arm);
      const at = Math.floor(((y - plot.top) / plot.height) * rows.length);
      const row = rows[this.few ? rows.length - 1 - at : at];
      if (row) return { row, plot };
    }
    return null;
  }
}
