// One statistic of a row over time, a line an arm.

import { Chart } from "gammabeta/chart.js";
import { number, onAxis, percent } from "gammabeta/format.js";
import { axes, duration, marks, ticks } from "gammabeta/lines.js";
import { probeOf } from "gammabeta/measures.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/rows.js").Row} Row */

export class Trend extends Chart {
  /**
   * @param {Row} row
   * @param {import("gammabeta/measures.js").Measure} what
   * @param {import("gammabeta/timeline.js").Timeline} time
   */
  constructor(row, what, time) {
    super(what.label, 118, time);
    this.row = row;
    this.what = what;
    this.canvas.setAttribute("aria-label", `${what.label} of ${row.title} over time`);
  }

  /** @param {number} value */
  words(value) {
    return this.what.scale === "share" ? percent(value) : number(Number(value.toPrecision(3)));
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   */
  paint(context, scene) {
    const { run, store, clock, hues } = scene;
    const { what, row, frame } = this;
    const column = store.column(what.field);
    let low = Infinity;
    let high = -Infinity;
    const lines = run.shown
      .filter((arm) => row.arms.has(arm.id))
      .map((arm) => {
        const probe = probeOf(row, arm.id, what, column);
        const frames = clock.frames.get(arm.id) ?? new Int32Array(0);
        const end = clock.ends.get(arm.id) ?? -1;
        const values = [];
        for (let tick = 0; tick <= end; tick++) {
          const value = column?.at(frames[tick] ?? -1, probe) ?? NaN;
          values.push(value);
          if (Number.isNaN(value) || (what.scale === "log" && value <= 0)) continue;
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
        return { arm, values };
      });
    const log = what.scale === "log" && low > 0 && low < high && high / low > 3;
    const scale = plain(what, low, high, log);
    marks(context, scene, frame, (tick) => this.x(tick), false);
    axes(context, scene.palette, /** @type {any} */ (scale), frame);
    for (const { arm, values } of lines) {
      context.beginPath();
      let drawn = false;
      for (const [tick, value] of values.entries()) {
        if (Number.isNaN(value)) {
          drawn = false;
          continue;
        }
        const y = frame.top + frame.height * (1 - scale.share(value));
        if (drawn) context.lineTo(this.x(tick), y);
        else context.moveTo(this.x(tick), y);
        drawn = true;
      }
      context.setLineDash(hues.dash(arm.id));
      context.strokeStyle = hues.colour(arm.id);
      context.lineWidth = 1.5;
      context.stroke();
      context.setLineDash([]);
    }
    ticks(context, scene, this.tall - 11, (tick) => this.x(tick));
  }

  /**
   * @param {MouseEvent} event
   * @param {Scene} scene
   */
  hover(event, { run, store, clock }) {
    const tick = this.tickAt(event);
    /** @type {[string, string][]} */
    const rows = [];
    for (const arm of run.shown) {
      const probe = probeOf(this.row, arm.id, this.what, store.column(this.what.field));
      const value = store.get(this.what.field, clock.frame(arm.id, tick), probe);
      if (probe >= 0) rows.push([run.shown.length > 1 ? arm.name : this.what.label, Number.isNaN(value) ? "–" : this.words(value)]);
    }
    const at = clock.at[tick] ?? 0;
    return { title: `${this.name} · ${clock.mode === "time" ? duration(at) : `step ${at}`}`, rows };
  }
}

/**
 * A scale between two values.
 * @param {{label: string, scale: string}} what
 * @param {number} low
 * @param {number} high
 * @param {boolean} log
 */
export function plain(what, low, high, log) {
  const share = what.scale === "share";
  if (!(low <= high)) [low, high] = [0, 1];
  if (share) [low, high] = [0, 1];
  if (high === low) [low, high] = log ? [low / 2, high * 2] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
  const [from, to] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  return {
    name: what.label,
    /** @param {number} value */
    share: (value) => Math.min(1, Math.max(0, ((log ? Math.log10(Math.max(value, 1e-45)) : value) - from) / (to - from))),
    ticks: () => [0, 0.5, 1].map((at) => {
      const value = log ? 10 ** (from + at * (to - from)) : from + at * (to - from);
      return /** @type {[number, string]} */ ([value, share ? percent(value) : log ? number(Number(value.toPrecision(2))) : onAxis(value, low, high)]);
    }),
  };
}
