// The histograms that are on the screen, and those of the frames around: never all of a large run.

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/source.js").Source} Source */

/** Frames of one arm that are fetched together. */
const SPAN = 16;
/** Histograms a request may have. */
const MOST = 16_000;
/** Requests under way at a time. */
const PARALLEL = 3;
/** Time after which a request that failed is repeated, in milliseconds. */
const RETRY = 3000;
/** Histograms that are kept: 64 MB. */
const KEPT = 250_000;
/** A run with fewer is fetched whole. */
export const FEW = 20_000;

/** @typedef {{arm: number, span: number, probes: Set<number>}} Wish */

export class Shapes {
  /**
   * @param {Source} source
   * @param {Run} run
   * @param {() => void} arrived
   */
  constructor(source, run, arrived) {
    this.source = source;
    this.run = run;
    this.arrived = arrived;
    /** By probe and span, the newest use last: bins of its frames. @type {Map<string, Uint8Array>} */
    this.blocks = new Map();
    this.kept = 0;
    /** What is wanted and not here, by arm and span; the newest wish last. @type {Map<string, Wish>} */
    this.wishes = new Map();
    /** @type {Set<string>} */
    this.coming = new Set();
    this.requests = 0;
    /** When a request failed. */
    this.failed = -Infinity;
  }

  /**
   * The bins of a histogram, its largest 255; undefined until it is here.
   * @param {number} frame
   * @param {number} probe
   * @returns {Uint8Array | undefined}
   */
  get(frame, probe) {
    const arm = this.run.frames.arm[frame];
    const place = this.run.places[frame];
    if (arm === undefined || place === undefined) return undefined;
    const span = Math.floor(place / SPAN);
    const key = `${probe}:${span}`;
    const { bins } = this.run.axis;
    const block = this.blocks.get(key);
    const start = (place % SPAN) * bins;
    if (!block || block.length < start + bins) {
      this.want(arm, span, probe);
      return undefined;
    }
    return block.subarray(start, start + bins);
  }

  /**
   * @param {number} arm
   * @param {number} span
   * @param {number} probe
   */
  want(arm, span, probe) {
    if (this.coming.has(`${probe}:${span}`) || performance.now() - this.failed < RETRY) return;
    const key = `${arm}:${span}`;
    let wish = this.wishes.get(key);
    if (wish) this.wishes.delete(key);
    else wish = { arm, span, probes: new Set() };
    wish.probes.add(probe);
    this.wishes.set(key, wish);
    if (this.wishes.size === 1 && wish.probes.size === 1) queueMicrotask(() => this.send());
  }

  /** Send the newest wishes; forget what was wanted before, if there are too many. */
  send() {
    while (this.requests < PARALLEL && this.wishes.size > 0) {
      const [key, wish] = /** @type {[string, Wish]} */ ([...this.wishes].pop());
      this.wishes.delete(key);
      const frames = (this.run.armFrames.get(wish.arm) ?? []).slice(wish.span * SPAN, (wish.span + 1) * SPAN);
      const probes = [...wish.probes].sort((a, b) => a - b);
      const most = Math.floor(MOST / SPAN);
      for (let i = 0; i < probes.length; i += most) this.fetch(frames, wish.span, probes.slice(i, i + most));
    }
    while (this.wishes.size > 6) this.wishes.delete(/** @type {string} */ (this.wishes.keys().next().value));
  }

  /**
   * @param {number[]} frames
   * @param {number} span
   * @param {number[]} probes
   */
  async fetch(frames, span, probes) {
    this.requests += 1;
    for (const probe of probes) this.coming.add(`${probe}:${span}`);
    try {
      this.keep(await this.source.shapes(frames, probes), frames.length, span, probes);
      this.arrived();
    } catch {
      this.failed = performance.now(); // what is missing is wanted again when it is drawn again
    } finally {
      this.requests -= 1;
      for (const probe of probes) this.coming.delete(`${probe}:${span}`);
      this.send();
    }
  }

  /**
   * @param {Uint8Array} data
   * @param {number} frames
   * @param {number} span
   * @param {number[]} probes
   */
  keep(data, frames, span, probes) {
    const { bins } = this.run.axis;
    for (const [j, probe] of probes.entries()) {
      const block = new Uint8Array(frames * bins);
      for (let i = 0; i < frames; i++) {
        const start = (i * probes.length + j) * bins;
        block.set(data.subarray(start, start + bins), i * bins);
      }
      const key = `${probe}:${span}`;
      if (!this.blocks.has(key)) this.kept += frames;
      this.blocks.delete(key);
      this.blocks.set(key, block);
    }
    while (this.kept > KEPT) {
      const oldest = /** @type {string} */ (this.blocks.keys().next().value);
      this.kept -= SPAN;
      this.blocks.delete(oldest);
    }
  }

  /** Fetch every histogram, if they are few. */
  async prepare() {
    for (const [arm, frames] of this.run.armFrames) {
      const probes = this.run.probes.filter((probe) => probe.arm === arm).map((probe) => probe.id);
      if (probes.length === 0 || frames.length * this.run.probes.length > FEW) continue;
      for (let span = 0; span * SPAN < frames.length; span++) {
        const some = frames.slice(span * SPAN, (span + 1) * SPAN);
        this.keep(await this.source.shapes(some, probes), some.length, span, probes);
      }
    }
    this.arrived();
  }
}
