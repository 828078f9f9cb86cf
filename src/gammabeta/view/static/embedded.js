// A run inside this file; gammabeta/view/packing.py describes the container.

/** @typedef {import("gammabeta/source.js").Source} Source */
/** @typedef {[offset: number, length: number]} At */
/**
 * @typedef {object} Packed
 * @property {{at: At}} measured
 * @property {Record<string, {bits: number, size: number, at: At}>} columns
 * @property {{group: number, levels: number, chunks: {from: number, to: number, at: At}[]}} shapes
 * @property {{at: At} | null} channels
 */

/** Decoded chunks of shapes that are kept, in bytes. */
const KEPT = 128e6;

/** @implements {Source} */
export class Embedded {
  near = true;

  /** @param {string} text base64 of the container */
  constructor(text) {
    this.bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    this.start = 0;
    this.frames = 0;
    this.probes = 0;
    this.bins = 0;
    /** @type {Packed | null} */
    this.packed = null;
    /** Signals: the pairs of frame and probe that were measured, in order. */
    this.signalFrame = new Uint32Array(0);
    this.signalProbe = new Uint32Array(0);
    /** Chunk number → its levels, see `unpack`. @type {Map<number, Promise<Map<number, {frames: Map<number, number>, levels: Uint8Array}>>>} */
    this.chunks = new Map();
    this.size = 0;
    /** @type {Promise<{probe: number, step: number, values: number[]}[]> | null} */
    this.channelList = null;
  }

  async index() {
    const head = new DataView(this.bytes.buffer);
    const length = head.getUint32(8, true);
    this.start = 12 + length;
    const data = JSON.parse(new TextDecoder().decode(await inflate(this.bytes.subarray(12, this.start))));
    this.packed = /** @type {Packed} */ (data.packed);
    this.frames = data.frames.step.length;
    this.probes = data.probes.length;
    this.bins = data.axis.bins;
    const measured = await this.block(this.packed.measured.at);
    const wide = Math.ceil(this.probes / 8);
    const frames = [];
    const probes = [];
    for (let i = 0; i < this.frames; i++) {
      for (let p = 0; p < this.probes; p++) {
        if (((measured[i * wide + (p >> 3)] ?? 0) >> p % 8) & 1) {
          frames.push(i);
          probes.push(p);
        }
      }
    }
    this.signalFrame = Uint32Array.from(frames);
    this.signalProbe = Uint32Array.from(probes);
    return data;
  }

  /** @param {At} at */
  block([offset, length]) {
    return inflate(this.bytes.subarray(this.start + offset, this.start + offset + length));
  }

  /**
   * @param {string} field
   * @param {number} from
   */
  async column(field, from) {
    const values = new Float32Array((this.frames - from) * this.probes).fill(NaN);
    if (field === "rms") {
      const [mean, std] = await Promise.all([this.column("mean", from), this.column("std", from)]);
      for (let i = 0; i < values.length; i++) values[i] = Math.hypot(mean.values[i] ?? NaN, std.values[i] ?? NaN);
      return { frames: this.frames - from, probes: this.probes, values };
    }
    const stored = new Map(Object.entries(this.packed?.columns ?? {})).get(field);
    if (stored) {
      const { bits, size, at } = stored;
      const planes = await this.block(at);
      const signals = this.signalFrame.length;
      const last = new Int32Array(this.probes);
      const patterns = new Uint32Array(1);
      const floats = new Float32Array(patterns.buffer);
      for (let s = 0; s < signals; s++) {
        let z = 0;
        for (let k = 0; k < size; k++) z |= (planes[k * signals + s] ?? 0) << (8 * k);
        const probe = this.signalProbe[s] ?? 0;
        const code = ((last[probe] ?? 0) + ((z >>> 1) ^ -(z & 1))) | 0;
        last[probe] = code;
        const frame = (this.signalFrame[s] ?? 0) - from;
        if (frame < 0) continue;
        patterns[0] = ((code < 0 ? 0x80000000 : 0) | (Math.abs(code) << (23 - bits))) >>> 0;
        values[frame * this.probes + probe] = floats[0] ?? NaN;
      }
    }
    return { frames: this.frames - from, probes: this.probes, values };
  }

  /**
   * @param {number[]} frames
   * @param {number[]} probes
   */
  async shapes(frames, probes) {
    const { bins } = this;
    const result = new Uint8Array(frames.length * probes.length * bins);
    const packed = this.packed?.shapes;
    if (!packed) return result;
    const { group, levels: most } = packed;
    const groups = bins / group;
    const height = Uint8Array.from({ length: 256 }, (_, level) => (level ? Math.max(1, Math.min(255, Math.round(255 * (level / most) ** 2))) : 0));
    for (const [i, frame] of frames.entries()) {
      const number = packed.chunks.findIndex((chunk) => frame >= chunk.from && frame < chunk.to);
      if (number < 0) continue;
      const chunk = await this.chunk(number);
      for (const [j, probe] of probes.entries()) {
        const stored = chunk.get(probe);
        const place = stored?.frames.get(frame);
        if (!stored || place === undefined) continue;
        const count = stored.frames.size;
        const start = (i * probes.length + j) * bins;
        for (let g = 0; g < groups; g++) {
          const bar = height[stored.levels[g * count + place] ?? 0] ?? 0;
          if (bar) result.fill(bar, start + g * group, start + (g + 1) * group);
        }
      }
    }
    return result;
  }

  /** @param {number} number */
  chunk(number) {
    let found = this.chunks.get(number);
    if (!found) {
      if (this.size > KEPT) {
        this.chunks.clear();
        this.size = 0;
      }
      this.chunks.set(number, (found = this.unpack(number)));
    }
    return found;
  }

  /**
   * The levels of a chunk by probe: group by group, its signals in order.
   * @param {number} number
   */
  async unpack(number) {
    const packed = /** @type {Packed} */ (this.packed).shapes;
    const { from, to, at } = /** @type {{from: number, to: number, at: At}} */ (packed.chunks[number]);
    const bytes = await this.block(at);
    this.size += bytes.length;
    const groups = this.bins / packed.group;
    /** @type {Map<number, {frames: Map<number, number>, levels: Uint8Array}>} */
    const result = new Map();
    for (let s = 0; s < this.signalFrame.length; s++) {
      const frame = this.signalFrame[s] ?? 0;
      if (frame < from || frame >= to) continue;
      const probe = this.signalProbe[s] ?? 0;
      let entry = result.get(probe);
      if (!entry) result.set(probe, (entry = { frames: new Map(), levels: bytes }));
      entry.frames.set(frame, entry.frames.size);
    }
    let read = 0;
    for (const probe of [...result.keys()].sort((a, b) => a - b)) {
      const entry = /** @type {{frames: Map<number, number>, levels: Uint8Array}} */ (result.get(probe));
      const n = entry.frames.size;
      const levels = new Uint8Array(groups * n);
      for (let g = 0; g < groups; g++) {
        for (let k = 0; k < n; k++) {
          const left = g ? levels[(g - 1) * n + k] ?? 0 : 0;
          const predicted = k ? (left + (levels[g * n + k - 1] ?? 0)) >> 1 : left;
          levels[g * n + k] = (bytes[read++] ?? 0) + predicted;
        }
      }
      entry.levels = levels;
    }
    return result;
  }

  /**
   * @param {number} probe
   * @param {number} step
   */
  async channels(probe, step) {
    const at = this.packed?.channels?.at;
    if (!at) return null;
    this.channelList ??= this.block(at).then((bytes) => JSON.parse(new TextDecoder().decode(bytes)));
    let newest = null;
    for (const each of await this.channelList) if (each.probe === probe && each.step <= step) newest = each.values;
    return newest;
  }

  follow() {
    // nothing more arrives
  }
}

/** @param {Uint8Array} bytes */
async function inflate(bytes) {
  const stream = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
