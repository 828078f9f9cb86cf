// What is remarkable at the playhead: which row, in what way, and how much.

import { kinOf, probesOf } from "gammabeta/kin.js";
import { measure } from "gammabeta/measures.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/store.js").Store} Store */
/** @typedef {import("gammabeta/kin.js").Kin} Kin */
/** @typedef {"nonfinite" | "dead" | "saturated" | "spread" | "drift" | "vanished" | "exploded" | "update"} Sort */
/**
 * @typedef {object} Finding
 * @property {Sort} sort
 * @property {Row} row
 * @property {number} badness the largest is told
 * @property {number} value
 * @property {number} [beside] what it is compared with
 * @property {Row} [other] the row it is compared with
 * @property {boolean} [slowly] whether many rows lie between
 */

/** How the filters are called. @type {[Sort, string][]} */
export const SORTS = [
  ["nonfinite", "not finite"],
  ["dead", "dying"],
  ["saturated", "saturated"],
  ["spread", "σ stands out"],
  ["drift", "drifting"],
  ["vanished", "tiny gradient"],
  ["exploded", "huge gradient"],
  ["update", "odd update"],
];

/** Where the badness of a sort begins; above it, what is nearly as bad and comes earlier is the cause. @type {Record<Sort, number>} */
const BASE = { nonfinite: 9, dead: 4, saturated: 3, spread: 2, drift: 1, vanished: 2.5, exploded: 2.2, update: 0.6 };

/**
 * The finding to tell: the worst, or what is nearly as bad and comes earlier, and so may be its cause.
 * @param {Finding[]} found in call order
 */
export function worst(found) {
  const most = found.reduce((a, b) => (!a || b.badness > a.badness ? b : a), /** @type {Finding | undefined} */ (undefined));
  if (!most || most.sort === "saturated") return most;
  const base = BASE[most.sort];
  return found.find((each) => each.sort === most.sort && each.badness - base >= 0.85 * (most.badness - base)) ?? most;
}

/** Factor by which σ or a gradient must differ from the rows that are like it. */
const APART = 5;
/** Factor by which σ must have changed since the first frame. */
const DRIFT = 5;
/** Factor between one row's gradient and the next one's. */
const FALL = 100;
/** Factor between the last row's gradient and the first one's. */
const LOST = 1e4;
/** Share of dead units with which a row is dead. */
const MOST = 0.8;
/** Ratios of an update to its weight that are out of the ordinary. */
const UPDATES = /** @type {const} */ ([1e-7, 0.1]);

/** The findings that were asked for last, by arm. @type {WeakMap<Store, Map<number, {frame: number, version: number, list: Finding[]}>>} */
const recent = new WeakMap();

/**
 * @param {Store} store
 * @param {number} arm
 * @param {number} frame
 * @returns {Finding[]} in call order
 */
export function findings(store, arm, frame) {
  if (frame < 0) return [];
  let arms = recent.get(store);
  if (!arms) recent.set(store, (arms = new Map()));
  const known = arms.get(arm);
  if (known && known.frame === frame && known.version === store.version) return known.list;
  const list = find(store, arm, frame);
  arms.set(arm, { frame, version: store.version, list });
  return list;
}

/**
 * @param {Store} store
 * @param {number} arm
 * @param {number} frame
 */
function find(store, arm, frame) {
  const { run } = store;
  const kin = kinOf(run, arm);
  const { rows, near, like } = kin;
  const first = run.armFrames.get(arm)?.[0] ?? frame;
  /** @param {string} key @param {number} [at] */
  const values = (key, at = frame) => {
    const what = measure(key);
    const column = store.column(what.field);
    const values = new Float64Array(rows.length).fill(NaN);
    if (column) probesOf(kin, arm, what, column).forEach((probe, i) => (values[i] = column.at(at, probe)));
    return values;
  };
  const std = values("std");
  const before = values("std", first);
  const saturated = values("saturated");
  const dead = values("dead");
  const gradient = values("gradient");
  const update = values("update");
  const broken = brokenRows(store, kin, frame);
  // Only what is summed or multiplied: the gradient of probabilities is on another scale.
  rows.forEach((row, i) => row.kind.startsWith("att") && (gradient[i] = NaN));
  const usual = median([...gradient].filter((each) => each > 0));
  /** For each row the next one that has a gradient. @type {number[]} */
  const next = [];
  for (let i = rows.length - 1, at = -1; i >= 0; i--) {
    next[i] = at;
    if ((gradient[i] ?? NaN) > 0) at = i;
  }
  /** @type {Finding[]} */
  const found = [];
  rows.forEach((row, i) => {
    const share = broken[i] ?? 0;
    if (share > 0) {
      found.push({ sort: "nonfinite", row, badness: 9, value: share });
      return;
    }
    // A unit of a tanh that is always saturated is not dead: it is saturated.
    const deadHere = run.saturation.get(row.activation(arm))?.includes(null) === false ? NaN : dead[i] ?? NaN;
    if (deadHere > 0.3 && deadHere > 0.2 + median(others(dead, near[i]))) found.push({ sort: "dead", row, badness: deadHere > MOST ? 4 + deadHere : 1.5 + deadHere / 2, value: deadHere });
    const s = saturated[i] ?? NaN;
    if (s > remarkable(run, row, arm)) found.push({ sort: "saturated", row, badness: 3 + s, value: s });
    const sigma = std[i] ?? NaN;
    if (row.kind === "layer" || row.kind === "residual") {
      const alike = reference(std, like[i], i);
      const closest = nearest(sigma, reference(std, near[i], i), alike);
      const beside = Number.isNaN(alike) ? closest : alike;
      const apart = Math.abs(Math.log(sigma / closest));
      const from = before[i] ?? NaN;
      // What has stood out from the beginning is a cause; what began to, later, may be a consequence.
      const began = Math.abs(Math.log(from / nearest(from, reference(before, near[i], i), reference(before, like[i], i))));
      const always = began > Math.log(APART) ? 0.2 : 0;
      if (apart > Math.log(APART)) found.push({ sort: "spread", row, badness: 2 + Math.min(0.95, apart / 7 + always), value: sigma, beside });
      if (Math.abs(Math.log(sigma / from)) > Math.log(DRIFT)) found.push({ sort: "drift", row, badness: 1, value: sigma, beside: from });
    }
    const g = gradient[i] ?? NaN;
    const after = next[i] ?? -1;
    const behind = gradient[after] ?? NaN;
    if (g < usual / FALL / 10 || g < 1e-12) found.push({ sort: "vanished", row, badness: 0.3, value: g, beside: usual });
    if (g >= 0 && behind / g > FALL) {
      found.push({ sort: "vanished", row, badness: 2.5 + Math.min(0.45, Math.log10(behind / g) / 40), value: g, beside: behind, other: /** @type {Row} */ (rows[after]) });
    }
    if (g / behind > FALL) {
      found.push({ sort: "exploded", row, badness: 2.2 + Math.min(0.25, Math.log10(g / behind) / 40), value: g, beside: behind, other: /** @type {Row} */ (rows[after]) });
    } else if (g > usual * FALL || g > 1e5) found.push({ sort: "exploded", row, badness: 0.4, value: g, beside: usual });
    const u = update[i] ?? NaN;
    if (u > UPDATES[1] || (u > 0 && u < UPDATES[0])) found.push({ sort: "update", row, badness: u > 1 ? 1.8 : 0.6, value: u });
  });
  const sharp = found.some((each) => each.sort === "vanished" && each.other);
  const vanishing = sharp ? null : gradual(rows, gradient);
  if (vanishing) found.push(vanishing);
  return found;
}

/**
 * A gradient that gets lost little by little on its way to the first layer.
 * @param {Row[]} rows
 * @param {Float64Array} gradient
 * @returns {Finding | null}
 */
function gradual(rows, gradient) {
  const known = rows.map((_, i) => i).filter((i) => rows[i]?.kind === "layer" && (gradient[i] ?? NaN) > 0);
  const first = known[0];
  const last = known[known.length - 1];
  if (first === undefined || last === undefined) return null;
  const [value = NaN, beside = NaN] = [gradient[first], gradient[last]];
  if (beside / value < LOST) return null;
  return { sort: "vanished", row: /** @type {Row} */ (rows[first]), badness: 2.46, value, beside, other: /** @type {Row} */ (rows[last]), slowly: true };
}

/** Arm id → the first frame that had a value that is not finite. @type {WeakMap<Store, Map<number, {row: Row, frame: number, step: number}>>} */
const firsts = new WeakMap();

/**
 * The first row, and its step, in which a value was not finite, up to a frame.
 * @param {Store} store
 * @param {number} arm
 * @param {number} frame
 */
export function firstBroken(store, arm, frame) {
  const { run } = store;
  let known = firsts.get(store);
  if (!known) firsts.set(store, (known = new Map()));
  const found = known.get(arm);
  if (found && found.frame <= frame) return found;
  const kin = kinOf(run, arm);
  for (const each of run.armFrames.get(arm) ?? []) {
    if (each > frame) return null;
    const row = kin.rows[brokenRows(store, kin, each).findIndex((share) => share > 0)];
    if (!row) continue;
    const first = { row, frame: each, step: run.frames.step[each] ?? 0 };
    known.set(arm, first);
    return first;
  }
  return null;
}

/**
 * The largest share of values of each row that are not finite; a parameter's are not a row's.
 * @param {Store} store
 * @param {Kin} kin
 * @param {number} frame
 */
function brokenRows(store, { stages }, frame) {
  const nonfinite = store.column("nonfinite");
  const count = store.column("count");
  const shares = new Float64Array(stages.length);
  if (!nonfinite) return shares;
  stages.forEach((probes, i) => {
    for (const probe of probes) {
      const here = nonfinite.at(frame, probe);
      if (here > 0) shares[i] = Math.max(shares[i] ?? 0, here / (count?.at(frame, probe) ?? here));
    }
  });
  return shares;
}

/**
 * The saturated share above which a row is remarkable. Half of a healthy ReLU's inputs are below 0, but
 * those of a sigmoid or tanh should rarely be saturated.
 * @param {Run} run
 * @param {Row} row
 * @param {number} arm
 */
export function remarkable(run, row, arm) {
  const zone = run.saturation.get(row.activation(arm));
  if (!zone) return Infinity;
  return zone.includes(null) ? 0.9 : 0.2;
}

/**
 * @param {Float64Array} values
 * @param {number[] | undefined} places
 * @param {number} i
 */
function reference(values, places, i) {
  const some = [];
  for (const place of places ?? []) {
    const value = values[place] ?? NaN;
    if (place !== i && value > 0) some.push(value);
  }
  return some.length >= 2 ? median(some) : NaN;
}

/**
 * Of two references the one that explains a value better.
 * @param {number} value
 * @param {number} a
 * @param {number} b
 */
function nearest(value, a, b) {
  if (Number.isNaN(a)) return b;
  if (Number.isNaN(b)) return a;
  return Math.abs(Math.log(value / a)) < Math.abs(Math.log(value / b)) ? a : b;
}

/**
 * @param {Float64Array} values
 * @param {number[] | undefined} places
 */
function others(values, places) {
  return (places ?? []).map((place) => values[place] ?? NaN).filter((each) => !Number.isNaN(each));
}

/** @param {number[]} values sorted by it */
function median(values) {
  if (values.length === 0) return NaN;
  const sorted = values.sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? NaN;
}
