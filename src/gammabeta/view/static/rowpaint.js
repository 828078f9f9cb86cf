// Paint one row of the table: its shapes, its numbers and its history; or a folded group's, in small.

import { number, percent } from "gammabeta/format.js";
import { measure, valueOf } from "gammabeta/measures.js";
import { outline, pillar, spread, zones } from "gammabeta/outline.js";
import { reading, shapeAt } from "gammabeta/reading.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/columns.js").Columns} Columns */
/** @typedef {import("gammabeta/findings.js").Finding} Finding */
/**
 * @typedef {object} Paint
 * @property {Scene} scene
 * @property {Columns} columns
 * @property {number} front the arm in front
 * @property {import("gammabeta/measures.js").Measure} measure
 * @property {Map<Row, Finding[]>} found what stands out, by row
 */

const FONT = "11px system-ui, sans-serif";
const BOLD = "600 11px system-ui, sans-serif";
/** The numbers that a finding makes bold. @type {Record<import("gammabeta/findings.js").Sort, string[]>} */
const ABOUT = { nonfinite: ["nonfinite", "std"], dead: ["dead"], saturated: ["saturated"], spread: ["std", "relative", "enters", "leaves", "rms"], drift: ["std"], vanished: ["gradient"], exploded: ["gradient"], update: ["update"] };

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Paint} paint
 * @param {Row} row
 * @param {number} y
 * @param {number} height
 */
export function paintRow(context, paint, row, y, height) {
  const { scene, columns, front } = paint;
  const { run, store, clock, moment, palette, hues } = scene;
  const arms = run.shown.filter((arm) => row.arms.has(arm.id));
  const order = [...arms.filter((arm) => arm.id !== front), ...arms.filter((arm) => arm.id === front)];
  const tall = height >= 40;
  for (const column of columns.stages) {
    const box = { x: column.x, y: y + 1, width: column.width, height: height - 2, foot: tall ? 9 : 1, head: 1 };
    const own = row.kind !== "layer" && column === columns.stages[0];
    if (!own && !arms.some((arm) => row.probe(arm.id, column.stage))) continue;
    for (const arm of order) {
      const stage = own && row.kind !== "layer" ? row.kind : column.stage;
      const probe = row.probe(arm.id, stage);
      if (!probe) continue;
      const first = arm.id === front || !arms.some((each) => each.id === front);
      if (first && height >= 22 && (stage === "z" || stage === row.preactivation(arm.id))) zones(context, run.saturation.get(probe.activation ?? ""), run.axis, box, palette);
      if (first) {
        context.fillStyle = palette.line;
        context.fillRect(box.x, box.y + box.height - box.foot, box.width, 1);
        context.fillRect(Math.round(box.x + box.width / 2), box.y, 0.5, box.height - box.foot);
      }
      shape(context, paint, arm.id, probe.id, box, first);
      if (first && tall) {
        const signal = reading(store, clock.frame(arm.id, moment.frame), probe.id);
        if (signal) spread(context, run.axis, box, signal.mean, signal.std, palette, hues.colour(arm.id));
      }
    }
  }
  numbers(context, paint, row, y, height);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Paint} paint
 * @param {number} arm
 * @param {number} probe
 * @param {import("gammabeta/outline.js").Box} box
 * @param {boolean} first whether it is filled
 */
function shape(context, { scene }, arm, probe, box, first) {
  const { run, store, clock, moment, palette, hues } = scene;
  const frame = clock.frame(arm, moment.frame);
  if (first && store.get("nonfinite", frame, probe) > 0) {
    context.fillStyle = palette.bad;
    context.font = BOLD;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(box.width > 70 ? "not finite" : "NaN", box.x + box.width / 2, box.y + (box.height - box.foot) / 2 + 1);
    return;
  }
  const found = shapeAt(store, frame, probe);
  if (!found) return;
  const colour = hues.colour(arm);
  outline(context, found, box, first);
  if (first) {
    context.globalAlpha = 0.24;
    context.fillStyle = colour;
    context.fill();
    context.globalAlpha = 1;
  }
  context.strokeStyle = colour;
  context.lineWidth = first ? 1.2 : 1;
  context.setLineDash(first ? [] : [3, 2]);
  context.stroke();
  context.setLineDash([]);
  if (first && store.get("zeros", frame, probe) > 0) {
    const signal = reading(store, frame, probe);
    if (signal) pillar(context, signal, run.axis, box, colour);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Paint} paint
 * @param {Row} row
 * @param {number} y
 * @param {number} height
 */
function numbers(context, { scene, columns, front, measure: chosen, found }, row, y, height) {
  const { store, clock, moment, palette } = scene;
  const arm = row.arms.has(front) ? front : [...row.arms.keys()][0] ?? front;
  const frame = clock.frame(arm, moment.frame);
  const bold = new Set((found.get(row) ?? []).filter((each) => each.badness >= 1).flatMap((each) => ABOUT[each.sort]));
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const { key, x } of columns.numbers) {
    const what = key === chosen.key ? chosen : measure(key);
    const value = valueOf(store, row, arm, frame, what);
    if (Number.isNaN(value)) continue;
    const remarkable = bold.has(key);
    context.font = remarkable ? BOLD : FONT;
    context.fillStyle = remarkable ? palette.bad : palette.ink;
    context.fillText(words(value, what), x, y + (height >= 40 ? height - 8 : height) / 2 + 1);
  }
}

/**
 * @param {number} value
 * @param {import("gammabeta/measures.js").Measure} what
 */
export function words(value, what) {
  if (what.scale === "ratio") return `${number(Number(value.toPrecision(2)))}×`;
  return what.scale === "share" ? percent(value) : number(Number(value.toPrecision(3)));
}

/**
 * A folded group: each member in small, and the most remarkable one in words.
 * @param {CanvasRenderingContext2D} context
 * @param {Paint} paint
 * @param {Row[]} rows
 * @param {number} y
 * @param {number} height
 */
export function paintGroup(context, paint, rows, y, height) {
  const { scene, columns, front, measure: what, found } = paint;
  const { store, clock, moment, palette, hues, run } = scene;
  const first = columns.stages[0];
  const last = columns.stages[columns.stages.length - 1];
  if (!first || !last) return;
  const wide = last.x + last.width - first.x;
  const members = rows.filter((row) => row.kind === "layer");
  const list = members.length ? members : rows;
  const each = Math.min(56, wide / list.length);
  if (each >= 13 && height >= 40) {
    list.forEach((row, i) => {
      const box = { x: first.x + i * each, y: y + 3, width: each - 3, height: height - 7, foot: 1, head: 1 };
      const arm = row.arms.has(front) ? front : [...row.arms.keys()][0] ?? front;
      const stages = row.stages(arm);
      const probe = stages[0] && row.probe(arm, stages[0]);
      if (!probe) return;
      const odd = (found.get(row) ?? []).some((one) => one.badness >= 2);
      const frame = clock.frame(arm, moment.frame);
      context.fillStyle = odd ? palette.bad : palette.line;
      context.fillRect(box.x, box.y + box.height - 1, box.width, odd ? 2 : 1);
      if (store.get("nonfinite", frame, probe.id) > 0) {
        context.fillStyle = palette.bad;
        context.fillRect(box.x, box.y, box.width, box.height);
        return;
      }
      const here = shapeAt(store, frame, probe.id);
      if (!here) return;
      const colour = odd ? palette.bad : hues.colour(arm);
      outline(context, here, box, true);
      context.globalAlpha = 0.26;
      context.fillStyle = colour;
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = colour;
      context.lineWidth = 1;
      context.stroke();
      for (const other of run.shown) {
        if (other.id === arm || run.shown.length > 3) continue;
        const twin = row.probe(other.id, stages[0] ?? "z");
        const ghost = twin && shapeAt(store, clock.frame(other.id, moment.frame), twin.id);
        if (!ghost) continue;
        outline(context, ghost, box, false);
        context.strokeStyle = hues.colour(other.id);
        context.stroke();
      }
    });
  } else bars(context, paint, list, { x: first.x, y: y + 2, width: wide, height: height - 4 });
  const values = rows.map((row) => valueOf(store, row, front, clock.frame(front, moment.frame), what)).filter((value) => !Number.isNaN(value));
  const place = columns.numbers[0];
  if (!values.length || !place) return;
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.font = FONT;
  context.fillStyle = palette.ink;
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (height < 40 || words(least, what) === words(most, what)) context.fillText(words(most, what), place.x, y + height / 2);
  else {
    context.fillText(words(most, what), place.x, y + height / 2 - 8);
    context.fillStyle = palette.muted;
    context.fillText(words(least, what), place.x, y + height / 2 + 8);
  }
}

/**
 * One bar a row: the value of the chosen statistic, by depth.
 * @param {CanvasRenderingContext2D} context
 * @param {Paint} paint
 * @param {Row[]} rows
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function bars(context, { scene, front, measure: what, found }, rows, box) {
  const { store, clock, moment, palette, hues } = scene;
  const each = box.width / rows.length;
  const values = rows.map((row) => valueOf(store, row, front, clock.frame(front, moment.frame), what));
  const log = what.scale === "log" || what.scale === "ratio";
  const [from, to] = what.range ?? (what.scale === "ratio" ? [0.1, 10] : span(values));
  rows.forEach((row, i) => {
    const value = values[i] ?? NaN;
    if (Number.isNaN(value)) return;
    const share = log ? (Math.log10(Math.max(value, 1e-30)) - Math.log10(from)) / (Math.log10(to) - Math.log10(from)) : Math.abs(value) / (what.scale === "share" ? 1 : Math.max(Math.abs(from), Math.abs(to)));
    const tall = Math.max(1, Math.min(1, Math.max(0, share)) * box.height);
    const odd = (found.get(row) ?? []).some((one) => one.badness >= 2);
    context.fillStyle = odd ? palette.bad : hues.colour(front);
    context.globalAlpha = odd ? 1 : 0.55;
    context.fillRect(box.x + i * each, box.y + box.height - tall, Math.max(0.5, each - (each > 3 ? 1 : 0)), tall);
  });
  context.globalAlpha = 1;
}

/** @param {number[]} values @returns {[number, number]} */
function span(values) {
  const some = values.filter((value) => Number.isFinite(value) && value !== 0).map(Math.abs);
  if (!some.length) return [1, 10];
  const [low, high] = [Math.min(...some), Math.max(...some)];
  return [low / 1.5, Math.max(high, low * 1.01)];
}
