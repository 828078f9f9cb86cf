// The statistics that the map can show and the rows can be sorted by, and where in a row they are.

import { ratioOf } from "gammabeta/relative.js";

/** @typedef {import("gammabeta/run.js").Stage} Stage */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/store.js").Store} Store */
/** @typedef {import("gammabeta/column.js").Column} Column */
/** "log": from a fixed or measured range; "share": 0 … 1; "signed": around 0; "ratio": around 1. @typedef {"log" | "share" | "signed" | "ratio"} Scale */
/**
 * @typedef {object} Measure
 * @property {string} key
 * @property {string} label
 * @property {string} field column of the store
 * @property {readonly Stage[]} stages the first of these that a row has is measured
 * @property {Scale} scale
 * @property {[number, number]} [range] fixed ends of a log scale
 */

const OWN = /** @type {const} */ (["residual", "attended", "attention"]);
const FIRST = /** @type {const} */ ([...OWN, "z", "normalized", "affine", "activation"]);
const ENTERS = /** @type {const} */ ([...OWN, "affine", "z", "normalized", "activation"]);
const LEAVES = /** @type {const} */ (["activation", "affine", "normalized", "z", ...OWN]);
/** @type {[number, number]} */
const FIXED = [0.01, 100];

/** @type {Measure[]} */
const MEASURES = [
  { key: "std", label: "σ of z", field: "std", stages: FIRST, scale: "log", range: FIXED },
  { key: "relative", label: "σ of z against layers like it", field: "std", stages: FIRST, scale: "ratio" },
  { key: "enters", label: "σ of what enters the activation", field: "std", stages: ENTERS, scale: "log", range: FIXED },
  { key: "leaves", label: "σ of the output", field: "std", stages: LEAVES, scale: "log", range: FIXED },
  { key: "rms", label: "RMS of the output", field: "rms", stages: [...OWN, ...LEAVES], scale: "log", range: FIXED },
  { key: "mean", label: "mean of z", field: "mean", stages: FIRST, scale: "signed" },
  { key: "saturated", label: "saturated share", field: "saturated", stages: ENTERS, scale: "share" },
  { key: "dead", label: "dead units", field: "dead", stages: ENTERS, scale: "share" },
  { key: "gradient", label: "gradient norm", field: "gradient", stages: FIRST, scale: "log" },
  { key: "update", label: "update ÷ weight", field: "update", stages: ["weight"], scale: "log" },
  { key: "norm", label: "weight norm", field: "norm", stages: ["weight"], scale: "log" },
  { key: "mean_shift", label: "running mean against batch", field: "rms", stages: ["mean_shift"], scale: "log", range: [0.001, 10] },
  { key: "var_ratio", label: "running variance against batch", field: "rms", stages: ["var_ratio"], scale: "log", range: [0.001, 10] },
  { key: "nonfinite", label: "not finite", field: "nonfinite", stages: LEAVES, scale: "share" },
];

/** @type {Map<string, Measure>} */
const byKey = new Map(MEASURES.map((each) => [each.key, each]));

/** @param {string} key */
export function measure(key) {
  return /** @type {Measure} */ (byKey.get(key) ?? MEASURES[0]);
}

/**
 * The probe of a row that a measure is about, −1 if the arm has none: of a share the first that has one.
 * @param {Row} row
 * @param {number} arm
 * @param {Measure} what
 * @param {Column} [column] of the measure's field
 */
export function probeOf(row, arm, what, column) {
  const first = row.first(arm, what.stages)?.id ?? -1;
  if (what.scale !== "share" || !column || column.known(first)) return first;
  for (const stage of what.stages) {
    const probe = row.probe(arm, stage)?.id ?? -1;
    if (column.known(probe)) return probe;
  }
  return first;
}

/**
 * @param {Store} store
 * @param {Row} row
 * @param {number} arm
 * @param {number} frame
 * @param {Measure} what
 */
export function valueOf(store, row, arm, frame, what) {
  if (what.scale === "ratio") return ratioOf(store, row, arm, frame, what);
  const probe = probeOf(row, arm, what, store.column(what.field));
  const value = store.get(what.field, frame, probe);
  return what.key === "nonfinite" ? value / store.get("count", frame, probe) : value;
}

/**
 * The measures of which a run has anything.
 * @param {import("gammabeta/run.js").Run} run
 */
export function offered(run) {
  const stages = new Set(run.probes.map((probe) => probe.stage));
  const fields = new Set(run.fields.map((field) => field.name)).add("rms");
  const normalizes = run.rows.normalizing.size > 0;
  const activates = stages.has("activation") || run.probes.some((probe) => probe.activation);
  return MEASURES.filter((each) => {
    if (!fields.has(each.field) || !each.stages.some((stage) => stages.has(stage))) return false;
    if (each.key === "enters") return normalizes;
    if (each.key === "relative") return run.rows.length > 8;
    return activates || (each.key !== "saturated" && each.key !== "dead");
  });
}
