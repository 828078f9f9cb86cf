// What a run consists of: its arms, probes, frames, curves and marks. The numbers are in the store.

import { Axis } from "gammabeta/axis.js";
import { Rows } from "gammabeta/rows.js";

/** @typedef {"z" | "normalized" | "affine" | "activation" | "residual" | "attention" | "attended" | "weight" | "gamma" | "beta" | "mean_shift" | "var_ratio"} Stage */
/** @typedef {{id: number, name: string, run: number}} Arm */
/** @typedef {{id: number, arm: number, layer: number, name: string, stage: Stage, activation: string | null}} Probe */
/** @typedef {{arm: number[], step: number[], seconds: (number | null)[]}} Frames */
/** @typedef {{steps: number[], values: (number | null)[]}} Series */
/** @typedef {{arm: number, step: number, text: string}} Mark */
/** @typedef {{arm: number, step: number, severity: "error" | "warning" | "info", code: string, name: string, layer: string, layers: string[], cause: string, numbers: [string, string][], fix: string, cost: string}} Verdict */
/**
 * How the page lists a value of a signal, see gammabeta/signal/schema.py. An optional value is omitted
 * if it was not measured.
 * @typedef {object} Field
 * @property {string} name
 * @property {string} label
 * @property {string} description
 * @property {string} unit
 * @property {"number" | "percent" | "share of values" | "share of sample"} show
 * @property {boolean} optional
 */
/** @typedef {{name: string, title: string, status: string, created: string, settings: Record<string, unknown>}} Part */
/** @typedef {{arms: Arm[], probes: Probe[], frames: Frames, scalars: ({arm: number, name: string} & Series)[], marks?: Mark[], findings?: Verdict[], cursor: string}} Increment */
/** @typedef {{title: string, note: string, status: string, created: string, settings: Record<string, unknown>, axis: import("gammabeta/axis.js").AxisSpec, fields: Field[], saturation: Record<string, [number | null, number | null]>, runs?: Part[]}} Header */
/** @typedef {Header & Increment} Snapshot */

export class Run {
  /** @param {Snapshot} snapshot */
  constructor(snapshot) {
    this.title = snapshot.title;
    this.note = snapshot.note;
    this.status = snapshot.status;
    this.axis = new Axis(snapshot.axis);
    this.saturation = new Map(Object.entries(snapshot.saturation));
    this.fields = snapshot.fields;
    this.cursor = "";
    /** @type {Arm[]} */
    this.arms = [];
    /** In order of their ids, which are their positions. @type {Probe[]} */
    this.probes = [];
    /** @type {Frames} */
    this.frames = { arm: [], step: [], seconds: [] };
    /** Arm id → its frames, ascending. @type {Map<number, number[]>} */
    this.armFrames = new Map();
    /** Frame → its position among its arm's frames. @type {number[]} */
    this.places = [];
    /** Arm id → scalar name → its curve. @type {Map<number, Map<string, Series>>} */
    this.scalars = new Map();
    /** @type {Mark[]} */
    this.marks = [];
    /** What the doctor found. @type {Verdict[]} */
    this.verdicts = [];
    this.rows = new Rows([], []);
    this.add(snapshot);
  }

  /**
   * Add what was recorded since the last call.
   * @param {Increment} news
   */
  add(news) {
    const arms = this.arms.length;
    this.arms = news.arms;
    this.cursor = news.cursor;
    const probes = this.probes.length;
    for (const probe of news.probes) if (probe.id >= this.probes.length) this.probes.push(probe);
    for (const [i, arm] of news.frames.arm.entries()) {
      let list = this.armFrames.get(arm);
      if (!list) this.armFrames.set(arm, (list = []));
      this.places.push(list.length);
      list.push(this.frames.step.length);
      this.frames.arm.push(arm);
      this.frames.step.push(news.frames.step[i] ?? 0);
      this.frames.seconds.push(news.frames.seconds[i] ?? null);
    }
    for (const { arm, name, steps, values } of news.scalars) {
      let curves = this.scalars.get(arm);
      if (!curves) this.scalars.set(arm, (curves = new Map()));
      const curve = curves.get(name);
      if (curve) {
        for (const [i, step] of steps.entries()) {
          curve.steps.push(step);
          curve.values.push(values[i] ?? null);
        }
      } else curves.set(name, { steps: [...steps], values: [...values] });
    }
    this.marks.push(...(news.marks ?? []));
    this.verdicts.push(...(news.findings ?? []));
    if (this.probes.length !== probes || this.arms.length !== arms) this.rows = new Rows(this.arms, this.probes);
  }

  /** Number of frames, of all arms together. */
  get length() {
    return this.frames.step.length;
  }

  /** The last step that has a frame or a scalar. */
  get last() {
    let last = 0;
    for (const frames of this.armFrames.values()) last = Math.max(last, this.frames.step[frames[frames.length - 1] ?? 0] ?? 0);
    for (const curves of this.scalars.values()) {
      for (const { steps } of curves.values()) last = Math.max(last, steps[steps.length - 1] ?? 0);
    }
    return last;
  }

  get running() {
    return this.status === "running";
  }

  /** The arms that have layers. */
  get shown() {
    return this.arms.filter((arm) => this.rows.depth(arm.id) > 0);
  }

  /** The names of all scalars: the loss first, then accuracies, then the others as they came. */
  get scalarNames() {
    /** @type {Set<string>} */
    const names = new Set();
    for (const curves of this.scalars.values()) for (const name of curves.keys()) names.add(name);
    /** @param {string} name */
    const rank = (name) => (name === "loss" ? 0 : name === "accuracy" ? 1 : 2);
    return [...names].sort((a, b) => rank(a) - rank(b));
  }

  /**
   * @param {number} arm
   * @param {string} name
   */
  curve(arm, name) {
    return this.scalars.get(arm)?.get(name);
  }

  /**
   * The newest value of a scalar at or before a step; undefined before the first.
   * @param {number} arm
   * @param {string} name
   * @param {number} step
   */
  scalar(arm, name, step) {
    const curve = this.curve(arm, name);
    if (!curve) return undefined;
    const { steps, values } = curve;
    return values[lastAtOrBefore(steps.length, (i) => /** @type {number} */ (steps[i]), step)];
  }

  /**
   * The step whose loss was not finite, if it is at or before `step`.
   * @param {number} arm
   * @param {number} step
   */
  diverged(arm, step) {
    const curve = this.curve(arm, "loss");
    const at = curve?.values.indexOf(null) ?? -1;
    const when = curve?.steps[at];
    return when !== undefined && when <= step ? when : undefined;
  }
}

/**
 * Index of the last of n ascending keys that is <= limit, or −1.
 * @param {number} n
 * @param {(i: number) => number} key
 * @param {number} limit
 */
export function lastAtOrBefore(n, key, limit) {
  let low = 0;
  let high = n;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (key(middle) <= limit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
