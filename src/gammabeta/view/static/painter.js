// Draw what does not move with the playhead in the strips: curves, maps, and their axes.

import { heat, colours, picture, shade } from "gammabeta/heat.js";
import { axes, BOLD, clipped, line, marks, PLAIN, ticks } from "gammabeta/lines.js";
import { number } from "gammabeta/format.js";
import { FOOT } from "gammabeta/timeline.js";

/** @typedef {import("gammabeta/timeline.js").Timeline} Timeline */
/** @typedef {import("gammabeta/timeline.js").Plot} Plot */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/heat.js").Heat} Heat */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/measures.js").Measure} Measure */
/**
 * @typedef {object} View
 * @property {Timeline} time
 * @property {Measure} measure
 * @property {number} front the arm in front
 * @property {(arm: number) => Row[]} rowsOf
 * @property {{label: string, from: number, to: number}[]} groups names beside the map
 * @property {Map<string, Heat>} heats kept from the last time
 * @property {boolean} title whether to write what the map shows
 */

/** Columns of a map's picture at most. */
const COLUMNS = 1400;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {View} view
 */
export function paint(context, scene, view) {
  const { time } = view;
  const { palette, run } = scene;
  context.clearRect(0, 0, time.width, time.height);
  /** @param {number} tick */
  const x = (tick) => time.x(tick);
  const last = time.plots[time.plots.length - 1];
  const bottom = last ? last.top + last.height : time.height - FOOT;
  marks(context, scene, { left: time.left, right: time.end, top: time.top, height: bottom - time.top }, x, true);
  lines(context, scene, time, bottom);
  /** @type {{y: number, text: string, colour: string}[]} */
  const ends = [];
  for (const [i, band] of time.bands.entries()) {
    const frame = { left: time.left, right: time.end, top: band.top, height: band.height };
    axes(context, palette, band.scale, frame);
    // The arm in front is drawn last.
    for (const arm of [...run.arms].sort((a, b) => Number(a.id === view.front) - Number(b.id === view.front))) {
      const curve = run.curve(arm.id, band.name);
      if (!curve) continue;
      const y = line(context, scene, arm.id, curve, band.scale, frame, x, run.arms.length > 2 && arm.id !== view.front);
      if (y !== null && i === 0) ends.push({ y, text: arm.name, colour: scene.hues.colour(arm.id) });
    }
  }
  if (time.right > 60 && run.arms.length > 1) names(context, time, ends);
  for (const plot of time.plots) map(context, scene, view, plot);
  if (time.plots.length) legend(context, scene, view);
  if (view.title) {
    context.fillStyle = palette.muted;
    context.font = BOLD;
    context.textAlign = "left";
    context.fillText(view.measure.label, time.left, time.mapTop - 8);
  }
  ticks(context, scene, time.height - FOOT + 9, x);
}

/**
 * A line at each of the doctor's verdicts.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {Timeline} time
 * @param {number} bottom
 */
function lines(context, { run, clock, palette }, time, bottom) {
  context.lineWidth = 1;
  context.globalAlpha = 0.6;
  for (const { step, arm, severity } of run.verdicts) {
    const x = Math.min(time.end, Math.max(time.left, time.x(clock.tickOfStep(step, arm))));
    context.strokeStyle = severity === "error" ? palette.bad : severity === "warning" ? palette.warn : palette.muted;
    context.setLineDash(severity === "error" ? [] : severity === "warning" ? [5, 3] : [1, 3]);
    context.beginPath();
    context.moveTo(x, 16);
    context.lineTo(x, bottom);
    context.stroke();
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

/**
 * The arms' names at the ends of their lines, apart from each other.
 * @param {CanvasRenderingContext2D} context
 * @param {Timeline} time
 * @param {{y: number, text: string, colour: string}[]} ends
 */
function names(context, time, ends) {
  const band = time.bands[0];
  if (!band || ends.length * 12 > band.height + 40) return; // the legend above has them
  ends.sort((a, b) => a.y - b.y);
  let above = -Infinity;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.font = "600 11px system-ui, sans-serif";
  const low = band.top + band.height + 22 - 13 * ends.length;
  for (const [i, end] of ends.entries()) {
    above = Math.max(Math.min(end.y, low + 13 * i), above + 13);
    context.fillStyle = end.colour;
    context.fillText(clipped(context, end.text, time.right - 10), time.end + 8, above);
  }
}

/**
 * One statistic of every row of an arm, or its ratio to another arm's.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {View} view
 * @param {Plot} plot
 */
function map(context, scene, view, plot) {
  const { time, measure } = view;
  const { palette, hues } = scene;
  const rows = view.rowsOf(plot.arm);
  const key = `${plot.arm} ${plot.base}`;
  const found = heat(scene, rows, plot.arm, measure, plot.base, view.heats.get(key));
  const wide = time.end - time.left;
  if (found && wide > 1) {
    view.heats.set(key, found);
    const table = tableOf(scene, found, plot.arm, plot.base);
    const columns = time.ticksOf(Math.min(COLUMNS, Math.round(wide * Math.min(2, devicePixelRatio))));
    const lines = Math.min(rows.length, Math.round(plot.height * Math.min(2, devicePixelRatio)));
    context.imageSmoothingEnabled = false;
    context.drawImage(picture(found, 0, rows.length, lines, columns, table, time.few), time.left, plot.top, wide, plot.height);
    context.imageSmoothingEnabled = true;
  }
  if (time.rowHeight > 3) {
    context.fillStyle = palette.paper;
    for (let i = 1; i <= rows.length; i++) context.fillRect(time.left, plot.top + (i * plot.height) / rows.length - 1, wide, 1);
  }
  context.fillStyle = hues.colour(plot.arm);
  if (time.plots.length > 1) context.fillRect(time.left - 3, plot.top, 2, plot.height - 1);
  labels(context, scene, view, plot, rows.length);
}

/**
 * The names of the groups beside a map; the numbers of the rows, if they are few.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {View} view
 * @param {Plot} plot
 * @param {number} count
 */
function labels(context, { palette }, { time, groups }, plot, count) {
  context.font = PLAIN;
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillStyle = palette.muted;
  const each = plot.height / Math.max(1, count);
  if (time.few) {
    if (plot.height <= 16) return;
    context.fillText(String(count), time.left - 6, plot.top + each / 2);
    if (count > 1) context.fillText("1", time.left - 6, plot.top + (count - 0.5) * each);
    return;
  }
  let free = -Infinity;
  for (const { label, from, to } of groups) {
    const top = plot.top + from * each;
    const middle = plot.top + ((from + to) / 2) * each;
    context.fillRect(time.left - 5, top, 3, 0.5);
    if (middle - 5 < free || to > count) continue;
    context.fillText(clipped(context, label, time.left - 12), time.left - 8, middle);
    free = middle + 6;
  }
}

/**
 * @param {Scene} scene
 * @param {Heat} found
 * @param {number} arm
 * @param {number | null} base
 */
export function tableOf({ palette, hues }, found, arm, base) {
  return colours(found.signed, hues.colour(arm), base === null ? palette.ink : hues.colour(base), palette.bad);
}

/**
 * The shades of the map and their values.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {View} view
 */
function legend(context, scene, { time, measure, heats }) {
  const { palette, hues } = scene;
  const plot = time.plots[0];
  const found = plot && heats.get(`${plot.arm} ${plot.base}`);
  if (!plot || !found || time.end - time.left < 420) return;
  const wide = time.few ? time.right - 26 : 90;
  const left = time.few ? time.end + 10 : time.end - wide - 34;
  const y = time.few ? time.mapTop + 2 : time.mapTop - 13;
  for (let i = 0; i < 24; i++) {
    const share = i / 23;
    context.globalAlpha = found.signed ? Math.min(1, Math.abs(2 * share - 1) ** 1.3) : shade(share);
    context.fillStyle = plot.base !== null ? hues.colour(share < 0.5 ? plot.base : plot.arm) : !found.signed && time.plots.length > 1 ? palette.ink : found.signed && share < 0.5 ? palette.ink : hues.colour(plot.arm);
    context.fillRect(left + (i * wide) / 24, y, wide / 24 + 0.5, 6);
  }
  context.globalAlpha = 1;
  context.font = PLAIN;
  context.textBaseline = "middle";
  context.fillStyle = palette.muted;
  /** @param {number} at */
  const words = (at) => {
    if (measure.scale === "ratio" || (plot.base !== null && measure.scale === "log")) return at === 0 ? "1/10" : at === 1 ? "10×" : "equal";
    const value = found.low + at * (found.high - found.low);
    if (measure.scale === "share" && plot.base === null) return `${Math.round(100 * value)}%`;
    return number(Number((measure.scale === "log" ? 10 ** value : value).toPrecision(2)));
  };
  if (time.few) {
    for (const at of [0, 0.5, 1]) {
      context.textAlign = at === 0 ? "left" : at === 1 ? "right" : "center";
      context.fillText(words(at), left + at * wide, y + 14);
    }
    return;
  }
  context.textAlign = "right";
  context.fillText(words(0), left - 5, y + 3);
  context.textAlign = "left";
  context.fillText(words(1), left + wide + 5, y + 3);
}
