// The names of the rows that stand out, beside their place in the map.

import { findings, worst } from "gammabeta/findings.js";
import { clipped } from "gammabeta/lines.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/timeline.js").Timeline} Timeline */
/** @typedef {{text: string, y: number, bad: boolean}} Flag */

const APART = 13;
const MOST = 8;

/**
 * The flags at the playhead, so many that none covers another.
 * @param {Scene} scene
 * @param {{time: Timeline, rowsOf: (arm: number) => import("gammabeta/rows.js").Row[]}} strips
 */
export function flags({ store, clock, moment }, { time, rowsOf }) {
  /** @type {Flag[]} */
  const flags = [];
  if (time.few || time.right < 60) return flags;
  for (const plot of time.plots) {
    const rows = rowsOf(plot.arm);
    const found = findings(store, plot.arm, clock.frame(plot.arm, moment.frame)).filter((each) => each.badness >= 2);
    // Where one is not finite the next ones are not either.
    const broken = found.findIndex((each) => each.sort === "nonfinite");
    if (broken >= 0) found.splice(0, found.length, /** @type {typeof found[0]} */ (found[broken]));
    const told = worst(found);
    /** @type {number[]} */
    const taken = [];
    for (const { row, sort } of [...found].sort((a, b) => Number(b === told) - Number(a === told) || b.badness - a.badness).slice(0, 40)) {
      const y = plot.top + ((rows.indexOf(row) + 0.5) * plot.height) / rows.length;
      if (taken.some((other) => Math.abs(other - y) < APART)) continue;
      if (taken.push(y) > MOST) break;
      flags.push({ text: row.title, y, bad: sort === "nonfinite" });
    }
  }
  return flags;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {Timeline} time
 * @param {Flag[]} flags
 */
export function paintFlags(context, { palette }, time, flags) {
  context.font = "600 11px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const { text, y, bad } of flags) {
    const x = time.end + 4;
    context.fillStyle = bad ? palette.bad : palette.ink;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + 6, y - 4);
    context.lineTo(x + 6, y + 4);
    context.closePath();
    context.fill();
    context.fillText(clipped(context, text, time.right - 16), x + 11, y);
  }
}
