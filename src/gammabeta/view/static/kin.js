// The rows that are like a row: those before it, and those whose names differ in numbers only.

import { probeOf } from "gammabeta/measures.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @type {WeakMap<Run["rows"], Map<number, Kin>>} */
const kin = new WeakMap();
/**
 * The rows of an arm, for each the rows that are like it, and its probes.
 * @typedef {{rows: Row[], near: number[][], like: number[][], stages: number[][], probes: Map<string, Int32Array>}} Kin
 */

/**
 * @param {Run} run
 * @param {number} arm
 * @returns {Kin}
 */
export function kinOf(run, arm) {
  let arms = kin.get(run.rows);
  if (!arms) kin.set(run.rows, (arms = new Map()));
  let known = arms.get(arm);
  if (known) return known;
  const rows = run.rows.all.filter((row) => row.arms.has(arm));
  /** Rows whose names differ in numbers only. @type {Map<string, number[]>} */
  const roles = new Map();
  /** @type {Map<string, number[]>} */
  const kinds = new Map();
  rows.forEach((row, i) => {
    const role = `${row.kind}:${row.name.replace(/\d+/g, "#")}`;
    for (const [map, key] of /** @type {const} */ ([[roles, role], [kinds, row.kind]])) {
      const list = map.get(key);
      if (list) list.push(i);
      else map.set(key, [i]);
    }
  });
  const near = rows.map((row, i) => around(kinds.get(row.kind) ?? [], i));
  const like = rows.map((row, i) => around(roles.get(`${row.kind}:${row.name.replace(/\d+/g, "#")}`) ?? [], i));
  const stages = rows.map((row) => row.stages(arm).map((stage) => row.probe(arm, stage)?.id ?? -1));
  arms.set(arm, (known = { rows, near, like, stages, probes: new Map() }));
  return known;
}

/**
 * Up to five rows before one, if there are two; else up to five around it.
 * @param {number[]} list ascending
 * @param {number} i
 */
function around(list, i) {
  const at = list.indexOf(i);
  const before = list.slice(Math.max(0, at - 5), at);
  return before.length >= 2 ? before : [...before, ...list.slice(at + 1, at + 6 - before.length)];
}

/**
 * @param {Kin} kin
 * @param {number} arm
 * @param {import("gammabeta/measures.js").Measure} what
 * @param {import("gammabeta/column.js").Column} column
 */
export function probesOf({ rows, probes }, arm, what, column) {
  const key = `${what.key} ${what.scale === "share" ? column.frames : ""}`;
  let list = probes.get(key);
  if (!list) probes.set(key, (list = Int32Array.from(rows, (row) => probeOf(row, arm, what, column))));
  return list;
}
