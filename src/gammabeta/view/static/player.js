// The playhead: where it is, how it moves, and in slow motion which stage a frame has reached.

/** @typedef {{frame: number, blend: number, phase: number | null}} Moment */

/** Frames per second at speed 1: the demonstration plays in about ten seconds. */
const RATE = 15;
/** Slow motion: z → x̂, x̂ → γx̂ + β, and through the activation, 300 ms each; then a rest. */
export const STAGE_MS = 300;
const PHASES = 3;
const REST_MS = 300;
export const SPEEDS = [0.25, 1, 4];

export class Player {
  /** @param {() => number} length number of frames, which may grow */
  constructor(length) {
    this.length = length;
    /** @type {number} */
    this.position = 0;
    this.playing = false;
    this.slow = false;
    this.speed = 1;
    this.still = false; // reduced motion: whole frames without blending
    /** Whether more frames are expected: at the end, wait for them. */
    this.live = false;
    /** Milliseconds into the current frame's slow motion. */
    this.elapsed = 0;
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    this.last = 0;
    this.tick = this.tick.bind(this);
  }

  /** @returns {Moment} */
  get moment() {
    const frame = Math.min(Math.floor(this.position), Math.max(0, this.length() - 1));
    if (this.slow && this.playing && !this.still) {
      return { frame, blend: 0, phase: Math.min(PHASES, this.elapsed / STAGE_MS) };
    }
    const next = frame + 1 < this.length();
    const blend = this.playing && !this.still && next ? this.position - frame : 0;
    return { frame, blend, phase: null };
  }

  get end() {
    return Math.max(0, this.length() - 1);
  }

  play() {
    if (this.position >= this.end && !this.live) this.position = 0;
    this.playing = true;
    this.elapsed = 0;
    this.last = performance.now();
    requestAnimationFrame(this.tick);
    this.changed();
  }

  pause() {
    this.playing = false;
    this.position = Math.floor(this.position);
    this.changed();
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  /**
   * Go to a frame and stay there.
   * @param {number} frame
   */
  seek(frame) {
    this.playing = false;
    this.position = Math.min(this.end, Math.max(0, Math.round(frame)));
    this.changed();
  }

  /** @param {number} frames */
  step(frames) {
    this.seek(Math.floor(this.position) + frames);
  }

  /** @param {number} speed */
  setSpeed(speed) {
    this.speed = speed;
    this.changed();
  }

  /** @param {boolean} slow */
  setSlow(slow) {
    this.slow = slow;
    this.position = Math.floor(this.position);
    if (slow && !this.playing) this.play();
    else {
      this.elapsed = 0;
      this.changed();
    }
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  /** @param {number} now */
  tick(now) {
    if (!this.playing) return;
    const passed = Math.min(100, Math.max(0, now - this.last)); // do not jump after the tab was hidden
    this.last = now;
    if (this.slow && !this.still) {
      this.elapsed += passed * this.speed;
      const frameTime = PHASES * STAGE_MS + REST_MS;
      if (this.elapsed >= frameTime) {
        if (this.position < this.end) {
          this.elapsed = 0;
          this.position += 1;
        } else this.atEnd();
      }
    } else {
      const rate = this.slow ? 1000 / (PHASES * STAGE_MS + REST_MS) : RATE;
      this.position = Math.min(this.end, this.position + (passed / 1000) * rate * this.speed);
      if (this.position >= this.end) this.atEnd();
    }
    this.changed();
    requestAnimationFrame(this.tick);
  }

  atEnd() {
    this.position = this.end;
    if (!this.live) this.playing = false;
  }
}
