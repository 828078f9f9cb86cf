// One statistic of every probe and frame: a matrix that grows as frames and probes arrive.

/** @typedef {{frames: number, probes: number, values: Float32Array}} Block */

export class Column {
  constructor() {
    /** Number of frames. */
    this.frames = 0;
    /** Number of probes: the length of a row of `data`. */
    this.probes = 0;
    /** Frame by frame, probe by probe; NaN where nothing was measured. */
    this.data = /** @type {Float32Array} */ (new Float32Array(0));
    /** When the page last asked for it, in milliseconds. */
    this.used = 0;
  }

  get bytes() {
    return this.data.byteLength;
  }

  /**
   * Append frames.
   * @param {Block} block
   */
  add({ frames, probes, values }) {
    if (this.frames === 0) {
      this.frames = frames;
      this.probes = probes;
      this.data = values;
      return;
    }
    const wide = Math.max(probes, this.probes);
    const needed = (this.frames + frames) * wide;
    if (wide !== this.probes || needed > this.data.length) {
      const grown = new Float32Array(wide !== this.probes ? needed : Math.max(needed, 2 * this.data.length)).fill(NaN);
      for (let i = 0; i < this.frames; i++) grown.set(this.data.subarray(i * this.probes, (i + 1) * this.probes), i * wide);
      this.data = grown;
      this.probes = wide;
    }
    for (let i = 0; i < frames; i++) {
      const start = (this.frames + i) * wide;
      this.data.fill(NaN, start, start + wide);
      this.data.set(values.subarray(i * probes, (i + 1) * probes), start);
    }
    this.frames += frames;
  }

  /**
   * Whether a probe has a value in one of the first or the last frames.
   * @param {number} probe
   */
  known(probe) {
    for (let i = 0; i < 8; i++) {
      if (!Number.isNaN(this.at(i, probe)) || !Number.isNaN(this.at(this.frames - 1 - i, probe))) return true;
    }
    return false;
  }

  /**
   * @param {number} frame
   * @param {number} probe
   * @returns {number} NaN if it was not measured
   */
  at(frame, probe) {
    if (frame < 0 || frame >= this.frames || probe < 0 || probe >= this.probes) return NaN;
    return /** @type {number} */ (this.data[frame * this.probes + probe]);
  }
}
