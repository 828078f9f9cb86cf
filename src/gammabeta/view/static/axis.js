// The axis of all cells: asinh-scaled, fixed for the run.

/** @typedef {{limit: number, linear: number, bins: number}} AxisSpec */

export class Axis {
  /** @param {AxisSpec} spec */
  constructor(spec) {
    this.limit = spec.limit;
    this.linear = spec.linear;
    this.bins = spec.bins;
    this.reach = Math.asinh(spec.limit / spec.linear);
    /** Width of each bin in x; a density is a count divided by it. */
    this.widths = new Float64Array(spec.bins);
    for (let i = 0; i < spec.bins; i++) this.widths[i] = this.edge(i + 1) - this.edge(i);
  }

  /**
   * Position of x on the axis: 0 at the left end, 1 at the right end, clamped.
   * @param {number} x
   */
  position(x) {
    const u = Math.asinh(x / this.linear) / this.reach;
    return Math.min(1, Math.max(0, (u + 1) / 2));
  }

  /**
   * Left edge of bin i, in x.
   * @param {number} i
   */
  edge(i) {
    return this.linear * Math.sinh(((2 * i) / this.bins - 1) * this.reach);
  }

  /** Ticks, the most important first. */
  ticks() {
    return [0, -1, 1, -10, 10, -100, 100].filter((x) => Math.abs(x) <= this.limit);
  }
}
