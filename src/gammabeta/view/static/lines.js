// Draw the curves of a scalar, one line an arm, and their axis.

import { number } from "gammabeta/format.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/scale.js").Scale} Scale */
/** @typedef {import("gammabeta/run.js").Series} Series */
/** @typedef {{left: number, right: number, top: number, height: number}} Frame */

export const PLAIN = "10px system-ui, sans-serif";
/** Room for the name of a plot, which its marks leave free. */
const NAMED = 60;
export const BOLD = "600 10px system-ui, sans-serif";

/**
 * The name, base line and ticks of a plot.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene["palette"]} palette
 * @param {Scale} scale
 * @param {Frame} frame
 */
export function axes(context, palette, scale, { left, right, top, height }) {
  context.textBaseline = "middle";
  context.fillStyle = palette.line;
  context.fillRect(left, top + height, right - left, 1);
  context.fillStyle = palette.muted;
  context.textAlign = "left";
  context.font = BOLD;
  context.fillText(clipped(context, scale.name, right - left), left, top - 8);
  context.font = PLAIN;
  let above = Infinity;
  for (const [value, text] of scale.ticks()) {
    const y = top + height * (1 - scale.share(value));
    context.fillStyle = palette.line;
    context.fillRect(left, y, right - left, 0.5);
    if (above - y < 11) continue;
    above = y;
    context.fillStyle = palette.muted;
    context.textAlign = "right";
    context.fillText(text, left - 5, y);
  }
}

/**
 * Draw a curve; where it is not finite it has a gap, and a cross at the first.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {number} arm
 * @param {Series} series
 * @param {Scale} scale
 * @param {Frame} frame
 * @param {(tick: number) => number} x
 * @param {boolean} quiet whether another arm is in front
 * @returns {number | null} the height of its end
 */
export function line(context, scene, arm, series, scale, { top, height, right }, x, quiet) {
  const { palette, hues, clock } = scene;
  const { steps, values } = series;
  const held = scale.percent; // a share holds until the next is measured
  const every = Math.max(1, Math.floor(steps.length / 4000));
  let at = null;
  let gap = false;
  let broken = null;
  context.beginPath();
  for (let i = 0; i < steps.length; i++) {
    const value = values[i];
    const left = x(clock.tickOfStep(steps[i] ?? 0, arm));
    if (value === null || value === undefined) {
      if (broken === null && at !== null) broken = [left, at];
      gap = true;
      continue;
    }
    if (every > 1 && i % every && i < steps.length - 1) continue;
    const y = top + height * (1 - scale.share(value));
    if (at === null || gap) context.moveTo(left, y);
    else {
      if (held) context.lineTo(left, at);
      context.lineTo(left, y);
    }
    gap = false;
    at = y;
  }
  context.setLineDash(hues.dash(arm));
  context.strokeStyle = hues.colour(arm);
  context.globalAlpha = quiet ? 0.55 : 1;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
  if (values.includes(null)) {
    const [left, y] = broken ?? [x(0), top + height / 2];
    context.fillStyle = palette.bad;
    context.font = "700 12px system-ui, sans-serif";
    context.textAlign = "left";
    context.fillText("× not finite", Math.min((left ?? 0) + 3, right - 74), Math.min(Math.max(y ?? 0, top + 6), top + height - 6));
    context.font = PLAIN;
  }
  return at;
}

/**
 * The marks, as lines with their text at the top.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {Frame} frame
 * @param {(tick: number) => number} x
 * @param {boolean} texts
 */
export function marks(context, scene, { top, height, left, right }, x, texts) {
  const { run, clock, palette } = scene;
  let free = left + NAMED;
  context.font = PLAIN;
  context.textBaseline = "middle";
  const placed = run.marks.map((mark) => ({ ...mark, x: x(clock.tickOfStep(mark.step, mark.arm)) })).sort((a, b) => a.x - b.x);
  for (const mark of placed) {
    context.strokeStyle = palette.muted;
    context.lineWidth = 1;
    context.setLineDash([2, 3]);
    context.beginPath();
    context.moveTo(mark.x, top);
    context.lineTo(mark.x, top + height);
    context.stroke();
    context.setLineDash([]);
    const wide = context.measureText(mark.text).width + 10;
    const at = mark.x + wide > right ? mark.x - wide : mark.x;
    if (!texts || at < free) continue;
    context.fillStyle = palette.muted;
    context.textAlign = "left";
    context.fillText(clipped(context, mark.text, right - left), at + 5, top - 8);
    free = at + wide + 8;
  }
}

/**
 * Labels of steps or seconds below a plot, as many as fit.
 * @param {CanvasRenderingContext2D} context
 * @param {Scene} scene
 * @param {number} y
 * @param {(tick: number) => number} x
 */
export function ticks(context, scene, y, x) {
  const { clock, palette } = scene;
  const last = clock.length - 1;
  if (last < 0) return;
  const end = clock.at[last] ?? 1;
  const time = clock.mode === "time";
  context.font = PLAIN;
  context.textBaseline = "middle";
  context.fillStyle = palette.muted;
  const lastText = time ? duration(end) : `step ${end}`;
  let free = -Infinity;
  const stop = x(last) - context.measureText(lastText).width - 10;
  for (const at of time ? roundTimes(clock.at[0] ?? 0, end) : roundSteps(end)) {
    const text = time ? duration(at) : String(at);
    const middle = x(clock.between(at));
    const half = context.measureText(text).width / 2;
    const left = Math.max(x(0), middle - half);
    if (left < free || left + 2 * half > stop) continue;
    context.textAlign = "left";
    context.fillText(text, left, y);
    context.fillRect(Math.round(middle), y - 9, 1, 3);
    free = left + 2 * half + 26;
  }
  context.textAlign = last ? "right" : "left";
  context.fillText(lastText, x(last), y);
}

/**
 * Steps worth a label: 1, 2, 3, 5, 10, 20 … up to the last.
 * @param {number} end
 */
function roundSteps(end) {
  const steps = [];
  for (let decade = 1; decade <= end; decade *= 10) {
    for (let lead = 1; lead < 10; lead++) if (lead * decade < end) steps.push(lead * decade);
  }
  return steps;
}

/**
 * @param {number} first
 * @param {number} last
 */
function roundTimes(first, last) {
  const width = Math.max(1e-6, last - first);
  const every = [0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800].find((each) => width / each < 12) ?? width / 10;
  const times = [];
  for (let at = Math.ceil(first / every) * every; at < last; at += every) times.push(at);
  return times;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return `${number(Number(seconds.toPrecision(3)))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/**
 * Text that is at most so wide, shortened in its middle.
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} most
 */
export function clipped(context, text, most) {
  if (context.measureText(text).width <= most) return text;
  let keep = Math.max(2, Math.floor((text.length * most) / context.measureText(text).width));
  for (; keep > 2; keep--) {
    const shorter = `${text.slice(0, Math.ceil(keep / 2) - 1)}…${text.slice(text.length - Math.floor(keep / 2))}`;
    if (context.measureText(shorter).width <= most) return shorter;
  }
  return "…";
}
