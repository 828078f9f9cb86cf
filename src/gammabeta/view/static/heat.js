// The map of one statistic, row by tick: computed once as levels, then painted at any size.

import { probeOf } from "gammabeta/measures.js";
import { compare } from "gammabeta/relative.js";
import { rgb } from "gammabeta/theme.js";

/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/measures.js").Measure} Measure */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/**
 * A level of each row and tick: 0 nothing, 1 … 250 from least to most, 255 not finite.
 * @typedef {{levels: Uint8Array, rows: number, ticks: number, low: number, high: number, middle: number, signed: boolean, key: string}} Heat
 */

const TOP = 250;
const BROKEN = 255;
/** A difference of this factor has the full colour. */
const WIDEST = 10;

/**
 * @param {Scene} scene
 * @param {Row[]} rows
 * @param {number} arm
 * @param {Measure} what
 * @param {number | null} base an arm: show the ratio to it
 * @param {Heat | undefined} before returned again if nothing has changed
 * @returns {Heat | undefined} undefined until the numbers are here
 */
export function heat(scene, rows, arm, what, base, before) {
  const { store, clock } = scene;
  const column = store.column(what.field);
  if (!column) return undefined;
  const nonfinite = store.column("nonfinite");
  const count = what.key === "nonfinite" ? store.column("count") : undefined;
  const key = [what.key, arm, base, column.frames, nonfinite?.frames, count?.frames, clock.length, clock.mode, rows.length, scene.run.probes.length].join();
  if (before?.key === key) return before;
  const ticks = clock.length;
  const frames = clock.frames.get(arm) ?? new Int32Array(0);
  const baseFrames = base === null ? null : clock.frames.get(base) ?? new Int32Array(0);
  const last = clock.ends.get(arm) ?? -1;
  const values = new Float32Array(rows.length * ticks).fill(NaN);
  const levels = new Uint8Array(rows.length * ticks);
  const ratio = what.scale === "ratio";
  const log = what.scale === "log" || ratio;
  rows.forEach((row, r) => {
    const probe = probeOf(row, arm, what, column);
    const baseProbe = base === null ? -1 : probeOf(row, base, what, column);
    if (probe < 0 || (base !== null && baseProbe < 0)) return;
    for (let tick = 0; tick <= last; tick++) {
      const frame = frames[tick] ?? -1;
      let value = column.at(frame, probe);
      if (count) value /= count.at(frame, probe);
      if ((nonfinite?.at(frame, probe) ?? 0) > 0) levels[r * ticks + tick] = BROKEN;
      else if (baseFrames) {
        const other = column.at(baseFrames[tick] ?? -1, baseProbe);
        values[r * ticks + tick] = log ? Math.log(Math.max(value, 1e-30) / Math.max(other, 1e-30)) : value - other;
      } else values[r * ticks + tick] = log ? Math.log10(Math.max(value, 1e-30)) : value;
    }
  });
  if (ratio && base === null) {
    for (let tick = 0; tick <= last; tick++) {
      compare(rows, (r) => values[r * ticks + tick] ?? NaN, (r, distance) => (values[r * ticks + tick] = distance * Math.LN10));
    }
  }
  const signed = base !== null || ratio || what.scale === "signed";
  const [low, high] = range(what, base !== null, values);
  const scale = (TOP - 1) / (high - low);
  const some = [];
  for (let i = 0; i < values.length; i++) {
    const value = values[i] ?? NaN;
    if (Number.isNaN(value)) continue;
    const level = 1 + Math.round(Math.min(1, Math.max(0, (value - low) / (high - low))) * (high - low) * scale);
    levels[i] = level;
    if (i % 97 === 0) some.push(level);
  }
  const middle = signed ? TOP / 2 : some.sort((a, b) => a - b)[some.length >> 1] ?? 1;
  return { levels, rows: rows.length, ticks, low, high, middle, signed, key };
}

/**
 * The ends of the scale, as log10 if it is logarithmic.
 * @param {Measure} what
 * @param {boolean} difference
 * @param {Float32Array} values
 * @returns {[number, number]}
 */
function range(what, difference, values) {
  if (difference || what.scale === "ratio") {
    const widest = what.scale === "log" || what.scale === "ratio" ? Math.log(WIDEST) : what.scale === "share" ? 1 : reach(values);
    return [-widest, widest];
  }
  if (what.scale === "share") return [0, 1];
  if (what.scale === "signed") return [-reach(values), reach(values)];
  if (what.range) return [Math.log10(what.range[0]), Math.log10(what.range[1])];
  const some = [];
  for (let i = 0; i < values.length; i += Math.max(1, Math.floor(values.length / 5000))) {
    const value = values[i] ?? NaN;
    if (value > -29) some.push(value);
  }
  if (some.length === 0) return [-3, 0];
  some.sort((a, b) => a - b);
  const low = Math.floor(some[Math.floor(some.length * 0.01)] ?? -3);
  const high = Math.ceil(some[Math.floor(some.length * 0.99)] ?? 0);
  return [low, Math.max(high, low + 2)];
}

/** @param {Float32Array} values */
function reach(values) {
  const some = [...values.filter((_, i) => i % 31 === 0)].filter((each) => !Number.isNaN(each)).map(Math.abs).sort((a, b) => a - b);
  return Math.max(1e-6, some[Math.floor(some.length * 0.99)] ?? 1);
}

/**
 * The red, green, blue and opacity of each level.
 * @param {boolean} signed
 * @param {string} above colour of much
 * @param {string} below colour of less than nothing
 * @param {string} bad
 */
export function colours(signed, above, below, bad) {
  const table = new Uint8ClampedArray(1024);
  for (let level = 1; level <= TOP; level++) {
    const share = (level - 1) / (TOP - 1);
    const [red, green, blue] = rgb(signed && share < 0.5 ? below : above);
    table.set([red, green, blue, 255 * (signed ? Math.min(1, Math.abs(2 * share - 1) ** 1.3) : shade(share))], 4 * level);
  }
  table.set([...rgb(bad), 255], 4 * BROKEN);
  return table;
}

/** How dark a share of the scale is drawn. @param {number} share */
export function shade(share) {
  return 0.06 + 0.94 * Math.min(1, Math.max(0, share)) ** 1.5;
}

/**
 * Paint levels into a picture. Where several rows or ticks share a pixel, the one farthest from the
 * middle is seen.
 * @param {Heat} heat
 * @param {number} from first row
 * @param {number} to row after the last
 * @param {number} lines height of the picture
 * @param {number[]} columns the tick at each of its columns
 * @param {Uint8ClampedArray} table see `colours`
 * @param {boolean} upwards whether the first row is at the bottom
 */
export function picture(heat, from, to, lines, columns, table, upwards) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, columns.length);
  canvas.height = Math.max(1, lines);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const colour = new Uint32Array(table.buffer);
  const { levels, ticks, middle } = heat;
  const count = to - from;
  for (let line = 0; line < lines; line++) {
    const at = upwards ? lines - 1 - line : line;
    const first = from + Math.floor((at * count) / lines);
    const last = Math.max(first + 1, from + Math.floor(((at + 1) * count) / lines));
    for (let x = 0; x < columns.length; x++) {
      const end = columns[x] ?? 0;
      const start = Math.min(end, (columns[x - 1] ?? end - 1) + 1);
      let best = 0;
      let far = -1;
      for (let row = first; row < last; row++) {
        for (let tick = start; tick <= end; tick++) {
          const level = levels[row * ticks + tick] ?? 0;
          if (level === 0) continue;
          const distance = Math.abs(level - middle);
          if (level === BROKEN || distance > far) {
            best = level;
            far = level === BROKEN ? 999 : distance;
          }
        }
      }
      pixels[line * columns.length + x] = colour[best] ?? 0;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
