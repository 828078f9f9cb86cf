// A recorded run in memory.

import { Axis } from "gammabeta/axis.js";

/** @typedef {"z" | "normalized" | "affine" | "activation"} Stage */
/** @typedef {{id: number, name: string}} Arm */
/** @typedef {{id: number, arm: number, layer: number, name: string, stage: Stage, activation: string | null}} Probe */
/**
 * One signal at one step. A null is a number that is not finite or was not measured. The properties
 * here are those that the page draws; `signalRows` lists all in the run's `fields`.
 * @typedef {object} Signal
 * @property {number} step
 * @property {number} count
 * @property {number | null} mean
 * @property {number | null} std
 * @property {number} first
 * @property {number[]} counts
 * @property {number} under
 * @property {number} over
 * @property {number} nonfinite
 * @property {number} zeros
 * @property {number | null} saturated
 * @property {number | null} gradient
 */
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
/** @typedef {{arm: number, step: number, signals: any[][]}} FrameRow */
/** @typedef {{arms: Arm[], probes: Probe[], frames: FrameRow[], scalars: [number, number, string, number | null][], cursor: {frame: number, scalar: number}}} Increment */
/** @typedef {{title: string, note: string, status: string, created: string, settings: Record<string, unknown>, axis: import("gammabeta/axis.js").AxisSpec, columns: string[], fields: Field[], saturation: Record<string, [number | null, number | null]>}} Header */
/** @typedef {{steps: number[], values: (number | null)[]}} Series */

export const STAGES = /** @type {Stage[]} */ (["z", "normalized", "affine", "activation"]);

export class Run {
  /** @param {Header & Increment} snapshot */
  constructor(snapshot) {
    this.title = snapshot.title;
    this.note = snapshot.note;
    this.status = snapshot.status;
    this.axis = new Axis(snapshot.axis);
    this.saturation = snapshot.saturation;
    this.columns = snapshot.columns;
    this.fields = snapshot.fields;
    this.cursor = snapshot.cursor;
    /** @type {Arm[]} */
    this.arms = [];
    /** @type {Probe[]} */
    this.probes = [];
    /** Recorded steps, ascending: the frames of the page. @type {number[]} */
    this.steps = [];
    /** Probe id → its signals, ascending in step. @type {Map<number, Signal[]>} */
    this.signals = new Map();
    /** Arm id → scalar name → its curve. @type {Map<number, Map<string, Series>>} */
    this.scalars = new Map();
    this.add(snapshot);
  }

  /**
   * Add what was recorded since the last call.
   * @param {Increment} news
   */
  add(news) {
    this.arms = news.arms;
    this.probes = news.probes;
    this.cursor = news.cursor;
    const known = new Set(this.steps);
    for (const frame of news.frames) {
      if (!known.has(frame.step)) {
        known.add(frame.step);
        this.steps.push(frame.step);
      }
      for (const row of frame.signals) {
        /** @type {any} */
        const signal = { step: frame.step };
        for (let i = 1; i < row.length; i++) signal[this.columns[i] ?? ""] = row[i];
        const list = this.signals.get(row[0]);
        if (list) list.push(signal);
        else this.signals.set(row[0], [signal]);
      }
    }
    this.steps.sort((a, b) => a - b);
    for (const [arm, step, name, value] of news.scalars) {
      let curves = this.scalars.get(arm);
      if (!curves) this.scalars.set(arm, (curves = new Map()));
      let curve = curves.get(name);
      if (!curve) curves.set(name, (curve = { steps: [], values: [] }));
      curve.steps.push(step);
      curve.values.push(value);
    }
  }

  /** Number of frames. */
  get length() {
    return this.steps.length;
  }

  /** The last step that has a frame or a scalar. */
  get last() {
    let last = this.steps[this.steps.length - 1] ?? 0;
    for (const curves of this.scalars.values()) {
      for (const { steps } of curves.values()) last = Math.max(last, steps[steps.length - 1] ?? 0);
    }
    return last;
  }

  get running() {
    return this.status === "running";
  }

  /** The largest layer number. */
  get depth() {
    return this.probes.reduce((most, probe) => Math.max(most, probe.layer), 0);
  }

  /**
   * @param {number} arm
   * @param {number} layer
   * @param {Stage} stage
   */
  probe(arm, layer, stage) {
    return this.probes.find((p) => p.arm === arm && p.layer === layer && p.stage === stage);
  }

  /**
   * The stages an arm has, in order.
   * @param {number} arm
   */
  stages(arm) {
    return STAGES.filter((stage) => this.probes.some((p) => p.arm === arm && p.stage === stage));
  }

  /**
   * The stage that is the activation's input.
   * @param {number} arm
   * @param {number} layer
   * @returns {Stage}
   */
  preactivation(arm, layer) {
    return this.probe(arm, layer, "affine") ? "affine" : "z";
  }

  /**
   * Whether the arm normalizes; this determines its hue, not its name.
   * @param {number} arm
   */
  normalizes(arm) {
    return this.probes.some((p) => p.arm === arm && p.stage === "normalized");
  }

  /**
   * The newest signal at or before a frame; an arm that stopped keeps its last one.
   * @param {Probe | undefined} probe
   * @param {number} frame
   * @returns {Signal | undefined}
   */
  signal(probe, frame) {
    const step = this.steps[frame];
    const list = probe && this.signals.get(probe.id);
    if (!list || step === undefined) return undefined;
    return list[lastAtOrBefore(list.length, (i) => /** @type {Signal} */ (list[i]).step, step)];
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
