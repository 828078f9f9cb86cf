// Time: the loss, the accuracy, and log σ layer by step, over one axis of frames that is also the
// scrubber.

import { element, fit } from "gammabeta/dom.js";
import { number, percent } from "gammabeta/format.js";
import { hueOf } from "gammabeta/grid.js";
import { lastAtOrBefore } from "gammabeta/run.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/run.js").Series} Series */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

const LOSS = 74;
const ACCURACY = 54;
const GAP = 17; // holds the name of the strip below it
const FOOT = 18;
const TOP = 14;

export class Strips {
  /**
   * @param {Run} run
   * @param {(frame: number) => void} seek
   */
  constructor(run, seek) {
    this.run = run;
    this.canvas = element("canvas", { class: "strips" });
    this.slider = element("div", { class: "slider", role: "slider", tabindex: "0", "aria-label": "Step" }, this.canvas);
    this.element = element("section", { class: "time", "aria-label": "Loss, accuracy and spread over time" }, this.slider);
    /** What does not move with the playhead. */
    this.backdrop = document.createElement("canvas");
    this.key = "";
    /** Decades of the loss. @type {[number, number] | null} */
    this.range = null;
    /** Where the playhead was drawn. @type {number | null} */
    this.playhead = null;
    this.left = 56;
    this.right = 118;
    this.width = 0;
    let dragging = false;
    this.slider.addEventListener("pointerdown", (event) => {
      dragging = true;
      this.slider.setPointerCapture(event.pointerId);
      seek(this.frameAt(event));
    });
    this.slider.addEventListener("pointermove", (event) => {
      if (dragging) seek(this.frameAt(event));
    });
    for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) {
      this.slider.addEventListener(end, () => (dragging = false));
    }
  }

  get rows() {
    return this.run.arms.reduce((sum, arm) => sum + this.layers(arm.id), 0);
  }

  get rowHeight() {
    return Math.max(2, Math.min(9, Math.floor(150 / Math.max(1, this.rows))));
  }

  get hasAccuracy() {
    return this.run.arms.some((arm) => this.run.curve(arm.id, "accuracy"));
  }

  get mapTop() {
    return TOP + LOSS + GAP + (this.hasAccuracy ? ACCURACY + GAP : 0);
  }

  get height() {
    return this.mapTop + this.rows * this.rowHeight + 4 * Math.max(0, this.run.arms.length - 1) + FOOT;
  }

  /** @param {number} arm */
  layers(arm) {
    return this.run.probes.reduce((most, p) => (p.arm === arm ? Math.max(most, p.layer) : most), 0);
  }

  /** @param {number} frame */
  x(frame) {
    const span = Math.max(1, this.run.length - 1);
    return this.left + (frame / span) * (this.width - this.left - this.right);
  }

  /** @param {PointerEvent | MouseEvent} event */
  frameAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - this.left) / (this.width - this.left - this.right);
    return Math.round(Math.min(1, Math.max(0, share)) * Math.max(0, this.run.length - 1));
  }

  /**
   * Where a step lies between frames.
   * @param {number} step
   */
  frameOf(step) {
    const steps = this.run.steps;
    const i = lastAtOrBefore(steps.length, (k) => /** @type {number} */ (steps[k]), step);
    const here = steps[i];
    const next = steps[i + 1];
    if (here === undefined) return 0;
    return next === undefined ? i : i + (step - here) / (next - here);
  }

  /** @param {Scene} scene */
  measure(scene) {
    this.width = this.element.clientWidth;
    const narrow = this.width < 640;
    this.left = narrow ? 34 : 56;
    this.right = narrow ? 12 : 118;
    this.canvas.style.height = `${this.height}px`;
    this.key = "";
    this.draw(scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { run, palette, moment } = scene;
    if (this.width < 2 || run.length === 0) return;
    const key = [run.length, this.width, this.height, palette.paper, run.probes.length].join();
    if (key !== this.key) {
      this.key = key;
      this.canvas.style.height = `${this.height}px`;
      this.drawBackdrop(scene);
    }
    const x = this.x(moment.frame + moment.blend);
    this.drawPlayhead(scene, x);
    const step = run.steps[moment.frame] ?? 0;
    const last = run.steps[run.length - 1] ?? 0;
    this.slider.setAttribute("aria-valuemin", "0");
    this.slider.setAttribute("aria-valuemax", String(Math.max(0, run.length - 1)));
    this.slider.setAttribute("aria-valuenow", String(moment.frame));
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${last}`);
  }

  /**
   * Move the playhead: only what it leaves and where it comes to is drawn again.
   * @param {Scene} scene
   * @param {number} x
   */
  drawPlayhead({ run, palette, moment }, x) {
    const context = fit(this.canvas, this.width, this.height);
    const whole = this.playhead === null;
    const from = whole ? 0 : Math.floor(Math.min(x, this.playhead ?? 0) - 8);
    const to = whole ? this.width : Math.ceil(Math.max(x, this.playhead ?? 0) + 8);
    this.playhead = x;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, this.height);
    context.clip();
    context.clearRect(from, 0, to - from, this.height);
    context.drawImage(this.backdrop, 0, 0, this.width, this.height);
    context.fillStyle = palette.ink;
    context.fillRect(x - 0.75, TOP, 1.5, this.height - FOOT - TOP);
    context.beginPath();
    context.arc(x, TOP, 4, 0, 7);
    context.fill();
    const step = run.steps[moment.frame] ?? 0;
    for (const arm of run.arms) {
      const colour = palette[hueOf(run, arm.id)];
      const loss = along(run.curve(arm.id, "loss"), step);
      if (loss !== null && this.range) this.dot(context, x, lossY(loss, this.range), colour, palette.paper);
      const accuracy = along(run.curve(arm.id, "accuracy"), step);
      if (accuracy !== null) this.dot(context, x, accuracyY(accuracy), colour, palette.paper);
    }
    context.restore();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} x
   * @param {number} y
   * @param {string} colour
   * @param {string} paper
   */
  dot(context, x, y, colour, paper) {
    context.beginPath();
    context.arc(x, y, 3.5, 0, 7);
    context.fillStyle = colour;
    context.fill();
    context.lineWidth = 1.5;
    context.strokeStyle = paper;
    context.stroke();
  }

  /** @returns {[number, number] | null} whole decades that hold every loss */
  lossRange() {
    let low = Infinity;
    let high = -Infinity;
    for (const arm of this.run.arms) {
      for (const value of this.run.curve(arm.id, "loss")?.values ?? []) {
        if (value !== null && value > 0) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
    if (low > high) return null;
    const bottom = Math.max(-6, Math.floor(Math.log10(low)));
    return [bottom, Math.max(bottom + 1, Math.ceil(Math.log10(high)))];
  }

  /** @param {Scene} scene */
  drawBackdrop({ run, palette }) {
    const context = fit(this.backdrop, this.width, this.height);
    context.clearRect(0, 0, this.width, this.height);
    context.font = "10px system-ui, sans-serif";
    context.textBaseline = "middle";
    const right = this.width - this.right;
    const range = (this.range = this.lossRange());
    this.playhead = null;
    if (range) {
      this.frame(context, palette, "loss", TOP, LOSS);
      const every = Math.ceil((range[1] - range[0]) / 3);
      for (let decade = range[0]; decade <= range[1]; decade += every) {
        this.tick(context, palette, lossY(10 ** decade, range), decade < -3 || decade > 4 ? `1e${decade}` : String(10 ** decade));
      }
    }
    if (this.hasAccuracy) {
      this.frame(context, palette, "accuracy", TOP + LOSS + GAP, ACCURACY);
      for (const a of [0, 0.5, 1]) this.tick(context, palette, accuracyY(a), percent(a));
    }
    this.frame(context, palette, "σ of what enters the activation, layer by layer", this.mapTop, 0);
    /** @type {{y: number, text: string, colour: string}[]} */
    const ends = [];
    run.arms.forEach((arm, i) => {
      const colour = palette[hueOf(run, arm.id)];
      const dash = hueOf(run, arm.id) === "warm" ? [5, 2] : [];
      const loss = run.curve(arm.id, "loss");
      if (loss && range) {
        const y = this.line(context, loss, (v) => lossY(v, range), colour, dash, palette);
        if (y !== null) ends.push({ y, text: arm.name, colour });
      }
      const accuracy = run.curve(arm.id, "accuracy");
      if (accuracy) {
        const y = this.line(context, accuracy, accuracyY, colour, dash, palette);
        if (y !== null && !range) ends.push({ y, text: arm.name, colour });
      }
      this.map(context, palette, arm.id, i, colour);
    });
    if (this.right > 60) {
      // Two lines that end together keep their names apart.
      ends.sort((a, b) => a.y - b.y);
      let above = -Infinity;
      context.textAlign = "left";
      context.font = "600 11px system-ui, sans-serif";
      for (const end of ends) {
        above = Math.max(end.y, above + 13);
        context.fillStyle = end.colour;
        context.fillText(end.text, right + 8, above, this.right - 10);
      }
      this.legend(context, palette, right);
    }
    this.steps(context, palette);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {import("gammabeta/theme.js").Palette} palette
   * @param {string} name
   * @param {number} top
   * @param {number} height
   */
  frame(context, palette, name, top, height) {
    context.fillStyle = palette.line;
    if (height) context.fillRect(this.left, top + height, this.width - this.left - this.right, 1);
    context.fillStyle = palette.muted;
    context.textAlign = "left";
    context.font = "600 10px system-ui, sans-serif";
    context.fillText(name, this.left, top - 8);
    context.font = "10px system-ui, sans-serif";
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {import("gammabeta/theme.js").Palette} palette
   * @param {number} y
   * @param {string} text
   */
  tick(context, palette, y, text) {
    context.fillStyle = palette.line;
    context.fillRect(this.left, y, this.width - this.left - this.right, 0.5);
    context.fillStyle = palette.muted;
    context.textAlign = "right";
    context.fillText(text, this.left - 5, y);
  }

  /**
   * Draw a curve up to where it stops being finite; returns the height of its end.
   * @param {CanvasRenderingContext2D} context
   * @param {Series} series
   * @param {(value: number) => number} y
   * @param {string} colour
   * @param {number[]} dash
   * @param {import("gammabeta/theme.js").Palette} palette
   */
  line(context, series, y, colour, dash, palette) {
    let at = null;
    let x = 0;
    context.beginPath();
    for (let i = 0; i < series.steps.length; i++) {
      const value = series.values[i];
      if (value === null || value === undefined) break;
      x = this.x(this.frameOf(series.steps[i] ?? 0));
      if (at === null) context.moveTo(x, y(value));
      else context.lineTo(x, y(value));
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
      context.fillText("× not finite", Math.min(x + 3, this.width - 80), at);
      context.font = "10px system-ui, sans-serif";
    }
    return at;
  }

  /**
   * σ of what enters each layer's activation, a row a layer, the last on top.
   * @param {CanvasRenderingContext2D} context
   * @param {import("gammabeta/theme.js").Palette} palette
   * @param {number} arm
   * @param {number} index
   * @param {string} colour
   */
  map(context, palette, arm, index, colour) {
    const { run, rowHeight } = this;
    const depth = this.layers(arm);
    const top = this.mapRow(index);
    const columnWidth = this.x(1) - this.x(0);
    for (let layer = depth; layer >= 1; layer--) {
      const probe = run.probe(arm, layer, run.preactivation(arm, layer));
      const y = top + (depth - layer) * rowHeight;
      for (let frame = 0; frame < run.length; frame++) {
        const signal = run.signal(probe, frame);
        if (!signal) continue;
        context.globalAlpha = signal.std === null ? 1 : shade(signal.std);
        context.fillStyle = signal.std === null ? palette.bad : colour;
        // Whole pixels: overlapping translucent columns would draw a grid.
        const from = Math.round(Math.max(this.left, this.x(frame) - columnWidth / 2));
        const to = Math.round(Math.min(this.width - this.right, this.x(frame) + columnWidth / 2));
        context.fillRect(from, y, to - from, rowHeight - (rowHeight > 3 ? 1 : 0));
      }
    }
    context.globalAlpha = 1;
    context.fillStyle = palette.muted;
    context.textAlign = "right";
    if (depth * rowHeight > 16) {
      context.fillText(String(depth), this.left - 5, top + rowHeight / 2);
      context.fillText("1", this.left - 5, top + (depth - 0.5) * rowHeight);
    }
  }

  /** @param {number} index of the arm */
  mapRow(index) {
    const before = this.run.arms.slice(0, index).reduce((sum, arm) => sum + this.layers(arm.id), 0);
    return this.mapTop + before * this.rowHeight + index * 4;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {import("gammabeta/theme.js").Palette} palette
   * @param {number} right
   */
  legend(context, palette, right) {
    context.font = "10px system-ui, sans-serif";
    const wide = this.right - 26;
    const y = this.mapTop + 2;
    for (let i = 0; i < 24; i++) {
      context.globalAlpha = shade(10 ** (-2 + (4 * i) / 23));
      context.fillStyle = palette.ink;
      context.fillRect(right + 10 + (i * wide) / 24, y, wide / 24 + 0.5, 6);
    }
    context.globalAlpha = 1;
    context.fillStyle = palette.muted;
    [["0.01", 0], ["1", 0.5], ["100", 1]].forEach(([text, at]) => {
      context.textAlign = at === 0 ? "left" : at === 1 ? "right" : "center";
      context.fillText(String(text), right + 10 + Number(at) * wide, y + 14);
    });
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {import("gammabeta/theme.js").Palette} palette
   */
  steps(context, palette) {
    const { run } = this;
    const y = this.height - FOOT + 9;
    context.font = "10px system-ui, sans-serif";
    context.fillStyle = palette.muted;
    const last = run.length - 1;
    const end = run.steps[last] ?? 1;
    const lastText = `step ${end}`;
    let free = -Infinity;
    const stop = this.x(last) - context.measureText(lastText).width - 10;
    for (const step of roundSteps(end)) {
      const text = String(step);
      const x = this.x(this.frameOf(step));
      const half = context.measureText(text).width / 2;
      const left = step === 1 ? x : x - half;
      if (left < free || left + 2 * half > stop) continue;
      context.textAlign = "left";
      context.fillText(text, left, y);
      context.fillRect(Math.round(x), y - 9, 1, 3);
      free = left + 2 * half + 26;
    }
    context.textAlign = "right";
    context.fillText(lastText, this.x(last), y);
  }

  /**
   * What is under the pointer: a line of numbers, or null.
   * @param {MouseEvent} event
   */
  hover(event) {
    const { run } = this;
    const box = this.canvas.getBoundingClientRect();
    const y = event.clientY - box.top;
    const frame = this.frameAt(event);
    const step = run.steps[frame];
    if (step === undefined) return null;
    /** @type {[string, string][]} */
    const rows = [];
    for (const [index, arm] of run.arms.entries()) {
      const depth = this.layers(arm.id);
      const layer = depth - Math.floor((y - this.mapRow(index)) / this.rowHeight);
      if (y >= this.mapTop && layer >= 1 && layer <= depth) {
        const signal = run.signal(run.probe(arm.id, layer, run.preactivation(arm.id, layer)), frame);
        rows.push([`layer ${layer} ${arm.name}: σ`, number(signal?.std)]);
      } else if (y < this.mapTop) {
        rows.push([`loss ${arm.name}`, number(run.scalar(arm.id, "loss", step))]);
        const accuracy = run.scalar(arm.id, "accuracy", step);
        if (accuracy !== undefined) rows.push([`accuracy ${arm.name}`, percent(accuracy)]);
      }
    }
    return rows.length ? { title: `step ${step}`, rows } : null;
  }
}

/**
 * @param {number} loss
 * @param {[number, number]} range
 */
function lossY(loss, [low, high]) {
  const share = (Math.log10(Math.max(loss, 1e-30)) - low) / (high - low);
  return TOP + LOSS * (1 - Math.min(1, Math.max(0, share)));
}

/** @param {number} accuracy */
function accuracyY(accuracy) {
  return TOP + LOSS + GAP + ACCURACY * (1 - accuracy);
}

/**
 * The height of a drawn curve at a step: between two measurements, on the line that joins them.
 * @param {Series | undefined} series
 * @param {number} step
 */
function along(series, step) {
  if (!series) return null;
  const { steps, values } = series;
  const i = lastAtOrBefore(steps.length, (k) => /** @type {number} */ (steps[k]), step);
  const here = values[i] ?? null;
  const next = values[i + 1] ?? null;
  if (here === null || next === null) return here;
  const a = steps[i] ?? 0;
  return here + ((next - here) * (step - a)) / ((steps[i + 1] ?? 0) - a);
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
