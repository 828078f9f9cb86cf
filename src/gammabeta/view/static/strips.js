// The strips over time: the loss, the accuracy, and log σ by layer and step, on one axis of frames that
// is also the slider.

import { element, fit } from "gammabeta/dom.js";
import { number, percent } from "gammabeta/format.js";
import { Painter } from "gammabeta/painter.js";
import { lastAtOrBefore } from "gammabeta/run.js";
import { hueOf } from "gammabeta/theme.js";
import { FOOT, Timeline, TOP } from "gammabeta/timeline.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/run.js").Series} Series */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

export class Strips {
  /**
   * @param {Run} run
   * @param {(frame: number) => void} seek
   */
  constructor(run, seek) {
    this.run = run;
    this.time = new Timeline(run);
    this.canvas = element("canvas", { class: "strips" });
    this.slider = element("div", { class: "slider", role: "slider", tabindex: "0", "aria-label": "Step" }, this.canvas);
    this.element = element("section", { class: "time", "aria-label": "Loss, accuracy and spread over time" }, this.slider);
    /** What does not move with the playhead. */
    this.backdrop = document.createElement("canvas");
    this.key = "";
    /** Where the playhead was drawn. @type {number | null} */
    this.playhead = null;
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

  /** @param {MouseEvent} event */
  frameAt(event) {
    return this.time.frameAt(event.clientX - this.canvas.getBoundingClientRect().left);
  }

  /** @param {Scene} scene */
  measure(scene) {
    this.time.layout(this.element.clientWidth);
    this.key = "";
    this.draw(scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { run, time } = this;
    const { palette, moment } = scene;
    if (time.width < 2 || run.length === 0) return;
    const key = [run.length, time.width, time.height, palette.paper, run.probes.length].join();
    if (key !== this.key) {
      this.key = key;
      this.canvas.style.height = `${time.height}px`;
      time.scaleLosses();
      new Painter(time, fit(this.backdrop, time.width, time.height), palette).paint();
      this.playhead = null;
    }
    this.drawPlayhead(scene, time.x(moment.frame + moment.blend));
    const step = run.steps[moment.frame] ?? 0;
    const last = run.steps[run.length - 1] ?? 0;
    this.slider.setAttribute("aria-valuemin", "0");
    this.slider.setAttribute("aria-valuemax", String(Math.max(0, run.length - 1)));
    this.slider.setAttribute("aria-valuenow", String(moment.frame));
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${last}`);
  }

  /**
   * Move the playhead: redraw only its old and new positions.
   * @param {Scene} scene
   * @param {number} x
   */
  drawPlayhead({ run, palette, moment }, x) {
    const { time } = this;
    const context = fit(this.canvas, time.width, time.height);
    const whole = this.playhead === null;
    const from = whole ? 0 : Math.floor(Math.min(x, this.playhead ?? 0) - 8);
    const to = whole ? time.width : Math.ceil(Math.max(x, this.playhead ?? 0) + 8);
    this.playhead = x;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, time.height);
    context.clip();
    context.clearRect(from, 0, to - from, time.height);
    context.drawImage(this.backdrop, 0, 0, time.width, time.height);
    context.fillStyle = palette.ink;
    context.fillRect(x - 0.75, TOP, 1.5, time.height - FOOT - TOP);
    context.beginPath();
    context.arc(x, TOP, 4, 0, 7);
    context.fill();
    const step = run.steps[moment.frame] ?? 0;
    for (const arm of run.arms) {
      const colour = palette[hueOf(run, arm.id)];
      if (run.diverged(arm.id, step) !== undefined) continue;
      const loss = along(run.curve(arm.id, "loss"), step);
      if (loss !== null && time.hasLoss) this.dot(context, x, time.lossY(loss), colour, palette.paper);
      const accuracy = run.scalar(arm.id, "accuracy", step);
      if (accuracy !== undefined && accuracy !== null) this.dot(context, x, time.accuracyY(accuracy), colour, palette.paper);
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

  /**
   * The numbers under the pointer, or null.
   * @param {MouseEvent} event
   */
  hover(event) {
    const { run, time } = this;
    const box = this.canvas.getBoundingClientRect();
    const y = event.clientY - box.top;
    const frame = this.frameAt(event);
    const step = run.steps[frame];
    if (step === undefined) return null;
    /** @type {[string, string][]} */
    const rows = [];
    for (const [index, arm] of run.arms.entries()) {
      const depth = time.layers(arm.id);
      const layer = depth - Math.floor((y - time.mapRow(index)) / time.rowHeight);
      if (y >= time.mapTop && layer >= 1 && layer <= depth) {
        const signal = run.signal(run.probe(arm.id, layer, run.preactivation(arm.id, layer)), frame);
        rows.push([`layer ${layer} ${arm.name}: σ`, number(signal?.std)]);
      } else if (y < time.mapTop) {
        rows.push([`loss ${arm.name}`, number(run.scalar(arm.id, "loss", step))]);
        const accuracy = run.scalar(arm.id, "accuracy", step);
        if (accuracy !== undefined) rows.push([`accuracy ${arm.name}`, percent(accuracy)]);
      }
    }
    return rows.length ? { title: `step ${step}`, rows } : null;
  }
}

/**
 * The height of a drawn curve at a step, interpolated between measurements.
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
