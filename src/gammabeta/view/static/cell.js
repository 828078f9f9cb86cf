// One cell: the shape of one stage of one row on the fixed axis, in motion.

import { fit } from "gammabeta/dom.js";
import { percent } from "gammabeta/format.js";
import { dashed, label, outline, pillar, spread, zones } from "gammabeta/outline.js";
import { reading, shapeAt } from "gammabeta/reading.js";
import { between, blend } from "gammabeta/shape.js";

/** @typedef {import("gammabeta/run.js").Stage} Stage */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/reading.js").Reading} Reading */
/** @typedef {import("gammabeta/theme.js").Palette} Palette */
/**
 * The state from which everything is drawn.
 * @typedef {object} Scene
 * @property {import("gammabeta/run.js").Run} run
 * @property {import("gammabeta/store.js").Store} store
 * @property {import("gammabeta/clock.js").Clock} clock
 * @property {import("gammabeta/player.js").Moment} moment
 * @property {Palette} palette
 * @property {import("gammabeta/theme.js").Hues} hues
 * @property {number | null} pinned a tick kept as an outline
 * @property {boolean} ghosts whether cells show the other arms as outlines
 */

const TRAIL = 10;
const FOOT = 9; // space below the base line for the mean's tick and the ±1σ bar
const HEAD = 5;

/** The phase of slow motion in which a stage arrives. @type {Partial<Record<Stage, number>>} */
const ARRIVES = { normalized: 0, affine: 1, activation: 2 };

export class Cell {
  /**
   * @param {number} arm
   * @param {Row} row
   * @param {Stage} stage
   */
  constructor(arm, row, stage) {
    this.arm = arm;
    this.row = row;
    this.stage = stage;
    this.preactivation = row.preactivation(arm);
    this.canvas = document.createElement("canvas");
    this.canvas.className = "cell";
    this.canvas.setAttribute("role", "img");
    this.canvas.dataset.layer = String(row.layer);
    this.canvas.dataset.stage = stage;
    this.width = 0;
    this.height = 0;
    /** The trail, the zones and the pinned frame change only when the frame changes. */
    this.backdrop = document.createElement("canvas");
    this.backdropKey = "";
  }

  get probe() {
    return this.row.probe(this.arm, this.stage);
  }

  /** Where the shape is drawn. */
  get box() {
    return { x: 0, y: 0, width: this.width, height: this.height, foot: FOOT, head: HEAD };
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { width, height } = this;
    if (!this.probe || width < 2) return;
    const context = fit(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    this.paint(context, scene);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   */
  paint(context, scene) {
    const { run, store, clock, moment, palette } = scene;
    const { width, height, probe, box } = this;
    if (!probe) return;
    const ahead = ARRIVES[this.stage] ?? -1;
    const phase = moment.phase;
    // In slow motion a stage that has not been reached still shows the frame before.
    const waits = phase !== null && phase < ahead && moment.frame > 0;
    const tick = waits ? moment.frame - 1 : moment.frame;
    const frame = clock.frame(this.arm, tick);
    const signal = reading(store, frame, probe.id);
    this.drawBackdrop(scene, tick, signal?.shape !== undefined);
    context.drawImage(this.backdrop, 0, 0, width, height);
    if (!signal) return;
    let { shape, mean, std } = signal;
    let arriving = false;
    const from = phase !== null ? reading(store, frame, this.row.probe(this.arm, this.before())?.id) : undefined;
    if (phase !== null && !waits && from?.bins && signal.bins && phase >= ahead && phase < ahead + 1) {
      const t = ease(phase - ahead);
      arriving = true;
      shape = between(from, signal, t, run.axis);
      mean = mixed(from.mean, signal.mean, t);
      std = mixed(from.std, signal.std, t);
    } else if (moment.blend > 0 && shape) {
      const later = clock.frame(this.arm, tick + 1);
      const next = later !== frame ? reading(store, later, probe.id) : undefined;
      if (next?.shape) {
        shape = blend(shape, next.shape, moment.blend);
        mean = mixed(mean, next.mean, moment.blend);
        std = mixed(std, next.std, moment.blend);
      }
    }
    const colour = scene.hues.colour(this.arm);
    if (signal.nonfinite < signal.count) {
      if (shape) {
        outline(context, shape, box, true);
        context.globalAlpha = waits ? 0.08 : 0.2;
        context.fillStyle = colour;
        context.fill();
        outline(context, shape, box, false);
        context.globalAlpha = waits ? 0.35 : 1;
        context.strokeStyle = colour;
        context.lineWidth = arriving ? 2 : 1.5;
        context.stroke();
        if (!arriving) pillar(context, signal, run.axis, box, colour);
      }
      spread(context, run.axis, box, mean, std, palette, colour);
      context.globalAlpha = 1;
    }
    this.badges(context, signal, palette, height);
  }

  /** @returns {Stage} the stage this one is made from */
  before() {
    if (this.stage === "activation") return this.preactivation;
    return this.stage === "affine" ? "normalized" : "z";
  }

  /** Whether to show saturated zones: on the activation's input, and on z, which would be the input without the normalization. */
  get entersOrMight() {
    return this.stage === this.preactivation || this.stage === "z";
  }

  /**
   * @param {Scene} scene
   * @param {number} tick
   * @param {boolean} here whether the histogram has arrived
   */
  drawBackdrop(scene, tick, here) {
    const { run, store, clock, palette, pinned } = scene;
    const { width, height, box, probe } = this;
    const key = [tick, here, clock.length, width, height, palette.paper, pinned, scene.ghosts, devicePixelRatio].join();
    if (key === this.backdropKey || !probe) return;
    this.backdropKey = key;
    const context = fit(this.backdrop, width, height);
    context.clearRect(0, 0, width, height);
    const base = height - FOOT;
    if (this.entersOrMight) zones(context, run.saturation.get(probe.activation ?? ""), run.axis, box, palette);
    context.fillStyle = palette.line;
    context.fillRect(Math.round(width / 2) - 0.5, 0, 1, base);
    context.fillRect(0, base, width, 1);
    context.lineWidth = 1;
    const frame = clock.frame(this.arm, tick);
    const frames = run.armFrames.get(this.arm) ?? [];
    const place = run.places[frame] ?? 0;
    for (let back = Math.min(TRAIL, place); back >= 1; back--) {
      const earlier = frames[place - back] ?? -1;
      const shape = shapeAt(store, earlier, probe.id);
      if (!shape) continue;
      outline(context, shape, box, false, 2);
      context.globalAlpha = 0.34 * (1 - back / (TRAIL + 1));
      context.strokeStyle = palette.muted;
      context.stroke();
    }
    context.globalAlpha = 1;
    if (scene.ghosts) {
      for (const arm of run.shown) {
        const other = this.row.probe(arm.id, this.stage);
        if (arm.id === this.arm || !other) continue;
        const shape = shapeAt(store, clock.frame(arm.id, tick), other.id);
        if (shape) dashed(context, shape, box, scene.hues.colour(arm.id));
      }
    }
    if (pinned !== null) {
      const kept = shapeAt(store, clock.frame(this.arm, pinned), probe.id);
      if (kept) dashed(context, kept, box, palette.ink);
    }
  }

  /**
   * Write what the shape cannot show: the shares of values that are saturated, beyond the axis, or not finite.
   * @param {CanvasRenderingContext2D} context
   * @param {Reading} signal
   * @param {Palette} palette
   * @param {number} height
   */
  badges(context, signal, palette, height) {
    const { width } = this;
    context.font = "600 11px system-ui, sans-serif";
    context.textBaseline = "top";
    if (this.entersOrMight && signal.saturated > 0.01) {
      label(context, percent(signal.saturated), width - 4, 3, "right", palette.ink, palette.paper);
    }
    if (signal.under > 0) {
      label(context, `‹ ${percent(signal.under / signal.total)}`, 3, 18, "left", palette.ink, palette.paper);
    }
    if (signal.over > 0) {
      label(context, `${percent(signal.over / signal.total)} ›`, width - 3, 18, "right", palette.ink, palette.paper);
    }
    if (signal.nonfinite > 0) {
      const share = percent(signal.nonfinite / signal.count);
      const full = `not finite ${share}`;
      const text = context.measureText(full).width + 12 > width ? `NaN ${share}` : full; // in a narrow cell
      const wide = context.measureText(text).width + 12;
      context.fillStyle = palette.bad;
      context.beginPath();
      context.roundRect((width - wide) / 2, height / 2 - 13, wide, 18, 9);
      context.fill();
      context.fillStyle = palette.paper;
      context.textAlign = "center";
      context.fillText(text, width / 2, height / 2 - 10);
    }
  }
}

/**
 * @param {number} a
 * @param {number} b
 * @param {number} t
 */
function mixed(a, b, t) {
  return Number.isNaN(a) || Number.isNaN(b) ? a : a + (b - a) * t;
}

/** @param {number} t */
function ease(t) {
  return t < 0.5 ? 4 * t ** 3 : 1 - (-2 * t + 2) ** 3 / 2;
}
