// What is known of one probe at one frame: its histogram and the numbers that the picture needs.

import { heights } from "gammabeta/shape.js";

/** @typedef {import("gammabeta/store.js").Store} Store */
/**
 * A number is NaN if it is not finite, was not measured, or is not here yet.
 * @typedef {object} Reading
 * @property {Uint8Array | undefined} bins without exact zeros, the largest 255; undefined until they are here
 * @property {import("gammabeta/shape.js").Shape | undefined} shape
 * @property {number} mean
 * @property {number} std
 * @property {number} saturated
 * @property {number} count
 * @property {number} total values in the histogram, and beyond the axis
 * @property {number} under
 * @property {number} over
 * @property {number} zeros
 * @property {number} nonfinite
 */

/** Smoothed shapes that are kept. */
const KEPT = 12_000;
/** @type {WeakMap<Store, Map<number, import("gammabeta/shape.js").Shape>>} */
const smooth = new WeakMap();

/**
 * The smoothed shape of a histogram; undefined until it is here.
 * @param {Store} store
 * @param {number} frame
 * @param {number} probe
 */
export function shapeAt(store, frame, probe) {
  let known = smooth.get(store);
  if (!known) smooth.set(store, (known = new Map()));
  const key = frame * 65536 + probe;
  let shape = known.get(key);
  if (shape) return shape;
  const bins = store.shapes.get(frame, probe);
  if (!bins) return undefined;
  if (known.size > KEPT) known.clear();
  known.set(key, (shape = heights(bins, store.run.axis)));
  return shape;
}

/**
 * @param {Store} store
 * @param {number} frame
 * @param {number | undefined} probe
 * @returns {Reading | undefined} undefined if it was not measured, or nothing of it is here
 */
export function reading(store, frame, probe) {
  if (frame < 0 || probe === undefined) return undefined;
  const count = store.get("count", frame, probe);
  if (!(count > 0)) return undefined;
  const nonfinite = orZero(store.get("nonfinite", frame, probe));
  const sampled = store.get("sampled", frame, probe);
  return {
    bins: store.shapes.get(frame, probe),
    shape: shapeAt(store, frame, probe),
    mean: store.get("mean", frame, probe),
    std: store.get("std", frame, probe),
    saturated: store.get("saturated", frame, probe),
    count,
    total: (sampled > 0 ? sampled : count) * (1 - nonfinite / count),
    under: orZero(store.get("under", frame, probe)),
    over: orZero(store.get("over", frame, probe)),
    zeros: orZero(store.get("zeros", frame, probe)),
    nonfinite,
  };
}

/** @param {number} x */
function orZero(x) {
  return x > 0 ? x : 0;
}
