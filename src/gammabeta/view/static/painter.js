// Draw what does not move with the playhead: the curves, the map of σ, and their axes.

import { number, percent } from "gammabeta/format.js";
import { DASHES, hueOf } from "gammabeta/theme.js";
import { FOOT, TOP } from "gammabeta/timeline.js";

/** @typedef {import("gammabeta/run.js").Series} Series */
/** @typedef {import("gammabeta/timeline.js").Timeline} Timeline */
/** @typedef {import("gammabeta/theme.js").Palette} Palette */

const PLAIN = "10px system-ui, sans-serif";
const BOLD = "600 10px system-ui, sans-serif";

export class Painter {
  /**
   * @param {Timeline} time
   * @param {CanvasRenderingContext2D} context
   * @param {Palette} palette
   */
  constructor(time, context, palette) {
    this.time = time;
    this.context = context;
    this.palette = palette;
  }

  paint() {
    const { time, context, palette } = this;
    const { run } = time;
    context.clearRect(0, 0, time.width, time.height);
    context.font = PLAIN;
    context.textBaseline = "middle";
    const decades = time.decades;
    if (time.hasLoss) this.frame("loss", TOP, time.lossBottom);
    for (const loss of time.linear ?? []) this.tick(time.lossY(loss), number(Number(loss.toPrecision(2))));
    if (decades) {
      const every = Math.ceil((decades[1] - decades[0]) / 3);
      for (let decade = decades[0]; decade <= decades[1]; decade += every) {
        this.tick(time.lossY(10 ** decade), decade < -3 ? `1e${decade}` : String(10 ** decade));
      }
    }
    if (time.hasAccuracy) {
      this.frame("accuracy", time.accuracyTop, time.accuracyBottom);
      for (const share of [0, 0.5, 1]) this.tick(time.accuracyY(share), percent(share));
    }
    this.frame("σ of what enters the activation, layer by layer", time.mapTop, null);
    /** @type {{y: number, text: string, colour: string}[]} */
    const ends = [];
    run.arms.forEach((arm, i) => {
      const colour = palette[hueOf(run, arm.id)];
      const dash = DASHES[hueOf(run, arm.id)];
      const loss = run.curve(arm.id, "loss");
      if (loss && time.hasLoss) {
        const y = this.line(loss, (value) => time.lossY(value), colour, dash, false);
        if (y !== null) ends.push({ y, text: arm.name, colour });
      }
      const accuracy = run.curve(arm.id, "accuracy");
      if (accuracy) {
        const y = this.line(accuracy, (value) => time.accuracyY(value), colour, dash, true);
        if (y !== null && !time.hasLoss) ends.push({ y, text: arm.name, colour });
      }
      this.map(arm.id, i, colour);
    });
    if (time.right > 60) {
      // Keep the names of two lines that end close together apart.
      ends.sort((a, b) => a.y - b.y);
      let above = -Infinity;
      context.textAlign = "left";
      context.font = "600 11px system-ui, sans-serif";
      for (const end of ends) {
        above = Math.max(end.y, above + 13);
        context.fillStyle = end.colour;
        context.fillText(end.text, time.end + 8, above, time.right - 10);
      }
      this.legend();
    }
    this.steps();
  }

  /**
   * A strip's name and base line.
   * @param {string} name
   * @param {number} top
   * @param {number | null} bottom null for none
   */
  frame(name, top, bottom) {
    const { time, context, palette } = this;
    context.fillStyle = palette.line;
    if (bottom !== null) context.fillRect(time.left, bottom, time.end - time.left, 1);
    context.fillStyle = palette.muted;
    context.textAlign = "left";
    context.font = BOLD;
    context.fillText(name, time.left, top - 8);
    context.font = PLAIN;
  }

  /**
   * @param {number} y
   * @param {string} text
   */
  tick(y, text) {
    const { time, context, palette } = this;
    context.fillStyle = palette.line;
    context.fillRect(time.left, y, time.end - time.left, 0.5);
    context.fillStyle = palette.muted;
    context.textAlign = "right";
    context.fillText(text, time.left - 5, y);
  }

  /**
   * Draw a curve until it stops being finite; returns the height of its end.
   * @param {Series} series
   * @param {(value: number) => number} y
   * @param {string} colour
   * @param {number[]} dash
   * @param {boolean} held whether a value holds until the next is measured
   */
  line(series, y, colour, dash, held) {
    const { time, context, palette } = this;
    let at = null;
    let x = 0;
    context.beginPath();
    for (let i = 0; i < series.steps.length; i++) {
      const value = series.values[i];
      if (value === null || value === undefined) break;
      x = time.x(time.frameOf(series.steps[i] ?? 0));
      if (at === null) context.moveTo(x, y(value));
      else if (held) context.lineTo(x, at);
      if (at !== null) context.lineTo(x, y(value));
      at = y(value);
    }
    context.setLineDash(dash);
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.stroke();
    context.setLineDash([]);
    if (at !== null && series.values.includes(null)) {
      context.fillStyle = palette.bad;
      context.font = "700 12px system-ui, sans-serif";
      context.textAlign = "left";
      context.fillText("× not finite", Math.min(x + 3, time.width - 80), at);
      context.font = PLAIN;
    }
    return at;
  }

  /**
   * σ of what enters each layer's activation, a row a layer, the last on top.
   * @param {number} arm
   * @param {number} index
   * @param {string} colour
   */
  map(arm, index, colour) {
    const { time, context, palette } = this;
    const { run, rowHeight } = time;
    const depth = time.layers(arm);
    const top = time.mapRow(index);
    const half = (time.x(1) - time.x(0)) / 2;
    const scale = context.getTransform().a;
    /** @param {number} x */
    const whole = (x) => Math.round(x * scale) / scale;
    for (let layer = depth; layer >= 1; layer--) {
      const probe = run.probe(arm, layer, run.preactivation(arm, layer));
      const y = top + (depth - layer) * rowHeight;
      for (let frame = 0; frame < run.length; frame++) {
        const signal = run.signal(probe, frame);
        if (!signal || signal.step !== run.steps[frame]) continue; // an arm that has stopped is not drawn
        context.globalAlpha = signal.std === null ? 1 : shade(signal.std);
        context.fillStyle = signal.std === null ? palette.bad : colour;
        // Use whole screen pixels: overlapping translucent columns would look like a grid.
        const from = whole(Math.max(time.left, time.x(frame) - half));
        const to = whole(Math.min(time.end, time.x(frame) + half));
        context.fillRect(from, y, to - from, rowHeight - (rowHeight > 3 ? 1 : 0));
      }
    }
    context.globalAlpha = 1;
    context.fillStyle = palette.muted;
    context.textAlign = "right";
    if (depth * rowHeight > 16) {
      context.fillText(String(depth), time.left - 5, top + rowHeight / 2);
      context.fillText("1", time.left - 5, top + (depth - 0.5) * rowHeight);
    }
  }

  /** The legend of the map's shades. */
  legend() {
    const { time, context, palette } = this;
    context.font = PLAIN;
    const left = time.end + 10;
    const wide = time.right - 26;
    const y = time.mapTop + 2;
    for (let i = 0; i < 24; i++) {
      context.globalAlpha = shade(10 ** (-2 + (4 * i) / 23));
      context.fillStyle = palette.ink;
      context.fillRect(left + (i * wide) / 24, y, wide / 24 + 0.5, 6);
    }
    context.globalAlpha = 1;
    context.fillStyle = palette.muted;
    [["0.01", 0], ["1", 0.5], ["100", 1]].forEach(([text, at]) => {
      context.textAlign = at === 0 ? "left" : at === 1 ? "right" : "center";
      context.fillText(String(text), left + Number(at) * wide, y + 14);
    });
  }

  /** The step labels at the bottom. */
  steps() {
    const { time, context, palette } = this;
    const { run } = time;
    const y = time.height - FOOT + 9;
    context.font = PLAIN;
    context.fillStyle = palette.muted;
    const last = run.length - 1;
    const end = run.steps[last] ?? 1;
    const lastText = `step ${end}`;
    let free = -Infinity;
    const stop = time.x(last) - context.measureText(lastText).width - 10;
    for (const step of roundSteps(end)) {
      const text = String(step);
      const x = time.x(time.frameOf(step));
      const half = context.measureText(text).width / 2;
      const left = step === 1 ? x : x - half;
      if (left < free || left + 2 * half > stop) continue;
      context.textAlign = "left";
      context.fillText(text, left, y);
      context.fillRect(Math.round(x), y - 9, 1, 3);
      free = left + 2 * half + 26;
    }
    context.textAlign = "right";
    context.fillText(lastText, time.x(last), y);
  }
}

/**
 * Steps worth a label: 1, 2, 3, 5, 10, 20 … up to the last.
 * @param {number} end
 */
function roundSteps(end) {
  const steps = [];
  for (let decade = 1; decade <= end; decade *= 10) {
    for (let lead = 1; lead < 10; lead++) if (lead * decade < end) steps.push(lead * decade);
  }
  return steps;
}

/** How dark a σ is drawn: 0.01 pale, 1 middle, 100 full. @param {number} std */
function shade(std) {
  const share = (Math.log10(Math.max(std, 1e-9)) + 2) / 4;
  return 0.06 + 0.94 * Math.min(1, Math.max(0, share)) ** 1.5;
}
