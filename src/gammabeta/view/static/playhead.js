// The playhead in the strips: its line, a dot on each curve, and the row that is chosen.

import { lastAtOrBefore } from "gammabeta/run.js";
import { FOOT } from "gammabeta/timeline.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/run.js").Series} Series */
/** @typedef {import("gammabeta/rows.js").Row} Row */

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {{time: import("gammabeta/timeline.js").Timeline, marked: Row | null, rowsOf: (arm: number) => Row[]}} strips
 * @param {number} x
 */
export function playhead(context, scene, { time, marked, rowsOf }, x) {
  const { palette, moment, clock, hues, run } = scene;
  if (marked && !time.few) {
    for (const plot of time.plots) {
      const rows = rowsOf(plot.arm);
      const at = rows.indexOf(marked);
      if (at < 0) continue;
      const tall = Math.max(3, plot.height / rows.length);
      const y = plot.top + ((at + 0.5) * plot.height) / rows.length - tall / 2;
      context.strokeStyle = palette.ink;
      context.lineWidth = 1;
      context.strokeRect(time.left - 2.5, y - 1.5, time.end - time.left + 5, tall + 3);
    }
  }
  context.fillStyle = palette.ink;
  context.fillRect(x - 0.75, time.top, 1.5, time.height - FOOT - time.top);
  context.beginPath();
  context.arc(x, time.top, 4, 0, 7);
  context.fill();
  for (const arm of run.arms) {
    const step = clock.step(moment.frame, arm.id);
    if (step === undefined || run.diverged(arm.id, step) !== undefined) continue;
    for (const band of time.bands) {
      const value = band.scale.percent ? run.scalar(arm.id, band.name, step) : along(run.curve(arm.id, band.name), step);
      if (value === undefined || value === null) continue;
      dot(context, x, band.top + band.height * (1 - band.scale.share(value)), hues.colour(arm.id), palette.paper);
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {string} colour
 * @param {string} paper
 */
export function dot(context, x, y, colour, paper) {
  context.beginPath();
  context.arc(x, y, 3.5, 0, 7);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = paper;
  context.stroke();
}

/**
 * The height of a drawn curve at a step, interpolated between measurements.
 * @param {Series | undefined} series
 * @param {number} step
 */
export function along(series, step) {
  if (!series) return null;
  const { steps, values } = series;
  const i = lastAtOrBefore(steps.length, (k) => /** @type {number} */ (steps[k]), step);
  const here = values[i] ?? null;
  const next = values[i + 1] ?? null;
  if (here === null || next === null) return here;
  const a = steps[i] ?? 0;
  return here + ((next - here) * (step - a)) / ((steps[i + 1] ?? 0) - a);
}
