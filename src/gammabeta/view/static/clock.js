// Where the playhead can be: the recorded steps, or the recorded times, of all arms together.

import { lastAtOrBefore } from "gammabeta/run.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {"step" | "time"} Mode */

/**
 * The steps of the scalars: the ticks of a run without frames.
 * @param {Run} run
 */
function scalarSteps(run) {
  /** @type {number[]} */
  const steps = [];
  for (const curves of run.scalars.values()) for (const curve of curves.values()) for (const step of curve.steps) steps.push(step);
  return steps;
}

export class Clock {
  /** @param {Run} run */
  constructor(run) {
    this.run = run;
    /** @type {Mode} */
    this.mode = "step";
    /** Steps or seconds, ascending: the ticks. */
    this.at = new Float64Array(0);
    /** Arm id → the newest frame at each tick, −1 before the first. @type {Map<number, Int32Array>} */
    this.frames = new Map();
    /** Arm id → whether the frame at this tick is of this tick. @type {Map<number, number>} */
    this.ends = new Map();
    this.rebuild();
  }

  /** Whether the frames have times. */
  get timed() {
    return this.run.length > 0 && this.run.frames.seconds.every((each) => each !== null);
  }

  /** Take the frames that have arrived. */
  rebuild() {
    const { run } = this;
    const keys = /** @type {number[]} */ (this.mode === "time" ? run.frames.seconds : run.frames.step);
    this.at = Float64Array.from(new Set(run.length ? keys : scalarSteps(run))).sort();
    this.frames = new Map();
    this.ends = new Map();
    for (const [arm, frames] of run.armFrames) {
      const list = new Int32Array(this.at.length).fill(-1);
      let next = 0;
      for (let tick = 0; tick < this.at.length; tick++) {
        while (next < frames.length && (keys[frames[next] ?? 0] ?? 0) <= (this.at[tick] ?? 0)) next++;
        list[tick] = frames[next - 1] ?? -1;
      }
      this.frames.set(arm, list);
      this.ends.set(arm, this.tickAt(keys[frames[frames.length - 1] ?? 0] ?? 0));
    }
  }

  /** @param {Mode} mode */
  setMode(mode) {
    this.mode = mode;
    this.rebuild();
  }

  /** Number of ticks. */
  get length() {
    return this.at.length;
  }

  /**
   * The newest frame of an arm at a tick; an arm that stopped keeps its last one.
   * @param {number} arm
   * @param {number} tick
   */
  frame(arm, tick) {
    return this.frames.get(arm)?.[tick] ?? -1;
  }

  /**
   * Whether an arm has stopped before a tick.
   * @param {number} arm
   * @param {number} tick
   */
  ended(arm, tick) {
    return tick > (this.ends.get(arm) ?? -1);
  }

  /**
   * The step an arm has reached at a tick; the latest of all arms if none is given.
   * @param {number} tick
   * @param {number} [arm]
   */
  step(tick, arm) {
    if (this.mode === "step") return this.at[tick];
    const { step } = this.run.frames;
    if (arm !== undefined) return step[this.frame(arm, tick)];
    let most = undefined;
    for (const list of this.frames.values()) {
      const here = step[list[tick] ?? -1];
      if (here !== undefined && (most === undefined || here > most)) most = here;
    }
    return most;
  }

  /** @param {number} position a step or a time */
  tickAt(position) {
    return lastAtOrBefore(this.at.length, (i) => this.at[i] ?? 0, position);
  }

  /**
   * The tick of a step or a time, between ticks if need be.
   * @param {number} position
   */
  between(position) {
    const tick = this.tickAt(position);
    const here = this.at[tick];
    const next = this.at[tick + 1];
    if (here === undefined) return 0;
    return next === undefined ? tick : tick + (position - here) / (next - here);
  }

  /**
   * The tick of a step of an arm, between ticks if need be.
   * @param {number} step
   * @param {number} arm
   */
  tickOfStep(step, arm) {
    if (this.mode === "step") return this.between(step);
    const frames = this.run.armFrames.get(arm) ?? [];
    const { step: steps, seconds } = this.run.frames;
    const place = lastAtOrBefore(frames.length, (i) => steps[frames[i] ?? 0] ?? 0, step);
    const a = frames[Math.max(0, place)] ?? 0;
    const b = frames[place + 1] ?? a;
    const wide = (steps[b] ?? 0) - (steps[a] ?? 0);
    const share = wide > 0 ? ((step - (steps[a] ?? 0)) / wide) : 0;
    return this.between((seconds[a] ?? 0) + Math.min(1, Math.max(0, share)) * ((seconds[b] ?? 0) - (seconds[a] ?? 0)));
  }
}
