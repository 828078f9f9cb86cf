// One cell: the shape of one stage of one layer on the fixed axis.

import { fit } from "gammabeta/dom.js";
import { percent } from "gammabeta/format.js";
import { between, blend, shapeOf } from "gammabeta/shape.js";
import { hueOf } from "gammabeta/theme.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/run.js").Signal} Signal */
/** @typedef {import("gammabeta/run.js").Stage} Stage */
/** @typedef {import("gammabeta/shape.js").Shape} Shape */
/** @typedef {import("gammabeta/player.js").Moment} Moment */
/** @typedef {import("gammabeta/theme.js").Palette} Palette */
/**
 * The state from which all cells are drawn.
 * @typedef {object} Scene
 * @property {Run} run
 * @property {Moment} moment
 * @property {Palette} palette
 * @property {number | null} pinned a frame kept as an outline
 * @property {boolean} ghostArms draw the other arm's outline (narrow screens)
 */

const TRAIL = 10;
const FOOT = 9; // space below the base line for the mean's tick and the ±1σ bar
const HEAD = 5;

/** The phase of slow motion in which a stage arrives. @type {Record<Stage, number>} */
const ARRIVES = { z: -1, normalized: 0, affine: 1, activation: 2 };

export class Cell {
  /**
   * @param {number} arm
   * @param {number} layer
   * @param {Stage} stage
   * @param {import("gammabeta/theme.js").Hue} hue
   */
  constructor(arm, layer, stage, hue) {
    this.arm = arm;
    this.layer = layer;
    this.stage = stage;
    this.hue = hue;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "cell";
    this.canvas.setAttribute("role", "img");
    this.canvas.dataset.layer = String(layer);
    this.canvas.dataset.stage = stage;
    this.width = 0;
    this.height = 0;
    /** The trail, the zones and the pinned frame change only when the frame changes. */
    this.backdrop = document.createElement("canvas");
    this.backdropKey = "";
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { run, moment, palette } = scene;
    const probe = run.probe(this.arm, this.layer, this.stage);
    const { width, height } = this;
    if (!probe || width < 2) return;
    const context = fit(this.canvas, width, height);
    context.clearRect(0, 0, width, height);
    const ahead = ARRIVES[this.stage];
    const phase = moment.phase;
    // In slow motion a stage that has not been reached still shows the frame before.
    const waits = phase !== null && phase < ahead && moment.frame > 0;
    const frame = waits ? moment.frame - 1 : moment.frame;
    const signal = run.signal(probe, frame);
    this.drawBackdrop(scene, frame);
    context.drawImage(this.backdrop, 0, 0, width, height);
    if (!signal) return;

    let shape = shapeOf(signal, run.axis);
    let mean = signal.mean;
    let std = signal.std;
    let arriving = false;
    const from = run.signal(run.probe(this.arm, this.layer, this.before()), frame);
    if (phase !== null && !waits && from && phase >= ahead && phase < ahead + 1) {
      const t = ease(phase - ahead);
      arriving = true;
      shape = between(from, signal, t, run.axis);
      mean = mixed(from.mean, signal.mean, t);
      std = mixed(from.std, signal.std, t);
    } else if (moment.blend > 0) {
      const next = run.signal(probe, frame + 1);
      if (next && next !== signal) {
        shape = blend(shape, shapeOf(next, run.axis), moment.blend);
        mean = mixed(mean, next.mean, moment.blend);
        std = mixed(std, next.std, moment.blend);
      }
    }
    const colour = palette[this.hue];
    const finite = signal.nonfinite < signal.count;
    if (finite) {
      outline(context, shape, width, height, true);
      context.globalAlpha = waits ? 0.08 : 0.2;
      context.fillStyle = colour;
      context.fill();
      outline(context, shape, width, height, false);
      context.globalAlpha = waits ? 0.35 : 1;
      context.strokeStyle = colour;
      context.lineWidth = arriving ? 2 : 1.5;
      context.stroke();
      if (!arriving) this.pillar(context, signal, run, colour);
      if (mean !== null && std !== null) this.spread(context, run, mean, std, palette, colour);
      context.globalAlpha = 1;
    }
    this.badges(context, signal, palette);
  }

  /** @returns {Stage} the stage this one is made from */
  before() {
    if (this.stage === "activation") return this.preactivation;
    return this.stage === "affine" ? "normalized" : "z";
  }

  /** @type {Stage} */
  preactivation = "z";

  /** Whether to show saturated zones: on the activation's input, and on z, which would be the input without the normalization. */
  get entersOrMight() {
    return this.stage === this.preactivation || this.stage === "z";
  }

  /**
   * @param {Scene} scene
   * @param {number} frame
   */
  drawBackdrop(scene, frame) {
    const { run, palette, pinned } = scene;
    const key = [frame, run.length, this.width, this.height, palette.paper, pinned, scene.ghostArms, devicePixelRatio].join();
    if (key === this.backdropKey) return;
    this.backdropKey = key;
    const { width, height } = this;
    const context = fit(this.backdrop, width, height);
    context.clearRect(0, 0, width, height);
    const base = height - FOOT;
    const probe = run.probe(this.arm, this.layer, this.stage);
    if (!probe) return;
    const zone = this.entersOrMight && probe.activation ? run.saturation[probe.activation] : undefined;
    if (zone) {
      context.fillStyle = palette.zone;
      const [low, high] = zone;
      if (low !== null) context.fillRect(0, 0, run.axis.position(low) * width, base);
      if (high !== null) {
        const left = run.axis.position(high) * width;
        context.fillRect(left, 0, width - left, base);
      }
    }
    context.fillStyle = palette.line;
    context.fillRect(Math.round(width / 2) - 0.5, 0, 1, base);
    context.fillRect(0, base, width, 1);
    context.lineWidth = 1;
    for (let back = Math.min(TRAIL, frame); back >= 1; back--) {
      const signal = run.signal(probe, frame - back);
      if (!signal || signal.nonfinite === signal.count) continue;
      outline(context, shapeOf(signal, run.axis), width, height, false, 2);
      context.globalAlpha = 0.34 * (1 - back / (TRAIL + 1));
      context.strokeStyle = palette.muted;
      context.stroke();
    }
    context.globalAlpha = 1;
    if (scene.ghostArms) {
      for (const arm of run.arms) {
        if (arm.id === this.arm) continue;
        const other = run.signal(run.probe(arm.id, this.layer, this.stage), frame);
        if (other) this.dashed(context, shapeOf(other, run.axis), palette[hueOf(run, arm.id)]);
      }
    }
    if (pinned !== null) {
      const kept = run.signal(probe, pinned);
      if (kept) this.dashed(context, shapeOf(kept, run.axis), palette.ink);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Shape} shape
   * @param {string} colour
   */
  dashed(context, shape, colour) {
    outline(context, shape, this.width, this.height, false);
    context.setLineDash([3, 2]);
    context.lineWidth = 1;
    context.strokeStyle = colour;
    context.stroke();
    context.setLineDash([]);
  }

  /**
   * Draw exact zeros as a pillar, as high as their share.
   * @param {CanvasRenderingContext2D} context
   * @param {Signal} signal
   * @param {Run} run
   * @param {string} colour
   */
  pillar(context, signal, run, colour) {
    const total = signal.counts.reduce((sum, count) => sum + count, signal.under + signal.over);
    const share = total > 0 ? signal.zeros / total : 0;
    if (share < 0.002) return;
    const tall = share * (this.height - FOOT - HEAD);
    context.fillStyle = colour;
    context.fillRect(run.axis.position(0) * this.width - 2.5, this.height - FOOT - tall, 5, tall);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Run} run
   * @param {number} mean
   * @param {number} std
   * @param {Palette} palette
   * @param {string} colour
   */
  spread(context, run, mean, std, palette, colour) {
    const y = this.height - FOOT / 2 + 1;
    const left = run.axis.position(mean - std) * this.width;
    const right = run.axis.position(mean + std) * this.width;
    context.fillStyle = colour;
    context.fillRect(left, y - 1, Math.max(1, right - left), 2);
    context.fillStyle = palette.ink;
    context.fillRect(run.axis.position(mean) * this.width - 1, y - 3.5, 2, 7);
  }

  /**
   * Write what the shape cannot show: the shares of values that are saturated, beyond the axis, or not finite.
   * @param {CanvasRenderingContext2D} context
   * @param {Signal} signal
   * @param {Palette} palette
   */
  badges(context, signal, palette) {
    const { width } = this;
    context.font = "600 11px system-ui, sans-serif";
    context.textBaseline = "top";
    const total = signal.counts.reduce((sum, count) => sum + count, signal.under + signal.over);
    const saturated = signal.saturated ?? 0;
    if (this.entersOrMight && saturated > 0.01) {
      label(context, percent(saturated), width - 4, 3, "right", palette.ink, palette.paper);
    }
    if (signal.under > 0) {
      label(context, `‹ ${percent(signal.under / total)}`, 3, 18, "left", palette.ink, palette.paper);
    }
    if (signal.over > 0) {
      label(context, `${percent(signal.over / total)} ›`, width - 3, 18, "right", palette.ink, palette.paper);
    }
    if (signal.nonfinite > 0) {
      const text = `not finite ${percent(signal.nonfinite / signal.count)}`;
      const wide = context.measureText(text).width + 12;
      context.fillStyle = palette.bad;
      context.beginPath();
      context.roundRect((width - wide) / 2, this.height / 2 - 13, wide, 18, 9);
      context.fill();
      context.fillStyle = palette.paper;
      context.textAlign = "center";
      context.fillText(text, width / 2, this.height / 2 - 10);
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Shape} shape
 * @param {number} width
 * @param {number} height
 * @param {boolean} closed
 * @param {number} [coarse] how many times fewer points than usual
 */
function outline(context, shape, width, height, closed, coarse = 1) {
  const base = height - FOOT;
  const tall = base - HEAD;
  const stride = Math.max(1, Math.round((1.5 * shape.length) / width)) * coarse;
  context.beginPath();
  if (closed) context.moveTo(0, base);
  for (let i = 0; i < shape.length; i += stride) {
    const x = ((i + 0.5) / shape.length) * width;
    const y = base - (shape[i] ?? 0) * tall;
    if (i === 0 && !closed) context.moveTo(x, y);
    else context.lineTo(x, y);
  }
  if (closed) {
    context.lineTo(width, base);
    context.closePath();
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {CanvasTextAlign} align
 * @param {string} colour
 * @param {string} halo
 */
function label(context, text, x, y, align, colour, halo) {
  context.textAlign = align;
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = halo;
  context.strokeText(text, x, y);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

/**
 * @param {number | null} a
 * @param {number | null} b
 * @param {number} t
 */
function mixed(a, b, t) {
  return a === null || b === null ? a : a + (b - a) * t;
}

/** @param {number} t */
function ease(t) {
  return t < 0.5 ? 4 * t ** 3 : 1 - (-2 * t + 2) ** 3 / 2;
}
