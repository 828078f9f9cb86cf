// The percentiles of one stage over time, on the axis of the cells: smallest to largest, 15 to 85, median.

import { Chart } from "gammabeta/chart.js";
import { number } from "gammabeta/format.js";
import { BOLD, duration, marks, PLAIN, ticks } from "gammabeta/lines.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */

const PAIRS = /** @type {const} */ ([["minimum", "maximum", 0.14], ["p15", "p85", 0.32]]);

export class Bands extends Chart {
  /**
   * @param {import("gammabeta/rows.js").Row} row
   * @param {number} arm
   * @param {import("gammabeta/run.js").Stage} stage
   * @param {import("gammabeta/timeline.js").Timeline} time
   */
  constructor(row, arm, stage, time) {
    super("percentiles over time", 132, time);
    this.row = row;
    this.arm = arm;
    this.stage = stage;
    this.left = 30;
    this.right = 4;
    this.canvas.setAttribute("aria-label", `Percentiles of ${row.title} over time`);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   */
  paint(context, scene) {
    const { run, store, clock, palette, hues } = scene;
    const { frame, arm } = this;
    const probe = this.row.probe(arm, this.stage)?.id ?? -1;
    const frames = clock.frames.get(arm) ?? new Int32Array(0);
    const end = clock.ends.get(arm) ?? -1;
    /** @param {number} value */
    const y = (value) => frame.top + frame.height * (1 - run.axis.position(value));
    context.font = BOLD;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillStyle = palette.muted;
    context.fillText(this.name, frame.left, frame.top - 10);
    context.font = PLAIN;
    for (const value of [-100, -10, -1, 0, 1, 10, 100]) {
      if (Math.abs(value) > run.axis.limit) continue;
      context.fillStyle = palette.line;
      context.fillRect(frame.left, y(value), frame.right - frame.left, value === 0 ? 1 : 0.5);
      context.fillStyle = palette.muted;
      context.textAlign = "right";
      context.fillText(String(value).replace("-", "−"), frame.left - 4, y(value));
    }
    marks(context, scene, frame, (tick) => this.x(tick), false);
    const colour = hues.colour(arm);
    for (const [low, high, alpha] of PAIRS) {
      context.beginPath();
      /** @type {[number, number][]} */
      let back = [];
      const close = () => {
        for (const [x, at] of back.reverse()) context.lineTo(x, at);
        back = [];
      };
      for (let tick = 0; tick <= end; tick++) {
        const a = store.get(low, frames[tick] ?? -1, probe);
        const b = store.get(high, frames[tick] ?? -1, probe);
        if (Number.isNaN(a) || Number.isNaN(b)) {
          close();
          continue;
        }
        if (back.length) context.lineTo(this.x(tick), y(b));
        else context.moveTo(this.x(tick), y(b));
        back.push([this.x(tick), y(a)]);
      }
      close();
      context.fillStyle = colour;
      context.globalAlpha = alpha;
      context.fill();
      context.globalAlpha = 1;
    }
    context.beginPath();
    let drawn = false;
    for (let tick = 0; tick <= end; tick++) {
      const value = store.get("p50", frames[tick] ?? -1, probe);
      if (Number.isNaN(value)) drawn = false;
      else if (drawn) context.lineTo(this.x(tick), y(value));
      else {
        context.moveTo(this.x(tick), y(value));
        drawn = true;
      }
    }
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.stroke();
    ticks(context, scene, this.tall - 11, (tick) => this.x(tick));
  }

  /**
   * @param {MouseEvent} event
   * @param {Scene} scene
   */
  hover(event, { store, clock }) {
    const tick = this.tickAt(event);
    const frame = clock.frame(this.arm, tick);
    const probe = this.row.probe(this.arm, this.stage)?.id ?? -1;
    const at = clock.at[tick] ?? 0;
    /** @type {[string, string][]} */
    const rows = [["largest", "maximum"], ["85th percentile", "p85"], ["median", "p50"], ["15th percentile", "p15"], ["smallest", "minimum"]];
    return { title: clock.mode === "time" ? duration(at) : `step ${at}`, rows: rows.map(([name, field]) => /** @type {[string, string]} */ ([name, number(store.get(field, frame, probe))])) };
  }
}
