// The scalars that do not share the map's axis, as small multiples.

import { element, fit } from "gammabeta/dom.js";
import { axes, line, marks, ticks } from "gammabeta/lines.js";
import { pictures } from "gammabeta/pictures.js";
import { Scale } from "gammabeta/scale.js";
import { along, dot } from "gammabeta/playhead.js";
import { STACKED } from "gammabeta/timeline.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */

const HEIGHT = 104;
const LEFT = 52;
const RIGHT = 10;

export class Curves {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {import("gammabeta/strips.js").Strips} strips whose time axis these have
   * @param {(tick: number) => void} seek
   */
  constructor(run, strips, seek) {
    this.run = run;
    this.strips = strips;
    this.seek = seek;
    this.element = element("section", { class: "curves", "aria-label": "More curves", hidden: "" });
    /** @type {Curve[]} */
    this.list = [];
    this.built = "";
  }

  /** Build a plot for each scalar; rebuild them if there are new ones. */
  build() {
    const names = this.run.scalarNames.slice(STACKED);
    const key = JSON.stringify(names);
    if (key === this.built) return;
    this.built = key;
    this.list = names.map((name) => new Curve(this, name));
    this.element.hidden = names.length === 0;
    this.element.replaceChildren(...this.list.map((each) => each.element));
  }

  /** @param {Scene} scene */
  measure(scene) {
    for (const each of this.list) each.measure(scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    for (const each of this.list) each.draw(scene);
  }
}

class Curve {
  /**
   * @param {Curves} curves
   * @param {string} name
   */
  constructor(curves, name) {
    this.curves = curves;
    this.name = name;
    this.canvas = element("canvas", { role: "img" });
    this.element = element("div", { class: "curve" }, this.canvas, pictures(name, () => this.picture()));
    this.backdrop = document.createElement("canvas");
    this.key = "";
    this.width = 0;
    this.scale = new Scale(curves.run, name);
    /** @type {Scene | null} */
    this.scene = null;
    let dragging = false;
    this.canvas.addEventListener("pointerdown", (event) => {
      dragging = true;
      this.canvas.setPointerCapture(event.pointerId);
      curves.seek(this.tickAt(event));
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (dragging) curves.seek(this.tickAt(event));
    });
    for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) this.canvas.addEventListener(end, () => (dragging = false));
  }

  /** @param {MouseEvent} event */
  tickAt(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.curves.strips.time.tickOf(Math.min(1, Math.max(0, (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT))));
  }

  /** @param {number} tick */
  x(tick) {
    return LEFT + this.curves.strips.time.clockShare(tick) * (this.width - LEFT - RIGHT);
  }

  /** @param {Scene} scene */
  measure(scene) {
    this.width = this.canvas.clientWidth;
    this.key = "";
    this.draw(scene);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   */
  paint(context, scene) {
    const { run } = scene;
    const frame = { left: LEFT, right: this.width - RIGHT, top: 18, height: HEIGHT - 40 };
    /** @param {number} tick */
    const x = (tick) => this.x(tick);
    context.clearRect(0, 0, this.width, HEIGHT);
    marks(context, scene, frame, x, false);
    axes(context, scene.palette, this.scale, frame);
    for (const arm of run.arms) {
      const curve = run.curve(arm.id, this.name);
      if (curve) line(context, scene, arm.id, curve, this.scale, frame, x, false);
    }
    ticks(context, scene, HEIGHT - 11, x);
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { run, clock, moment, palette, hues } = scene;
    this.scene = scene;
    if (this.width < 2) return;
    const key = [run.length, clock.length, clock.mode, this.width, palette.paper, run.last].join();
    if (key !== this.key) {
      this.key = key;
      this.scale = new Scale(run, this.name);
      this.paint(fit(this.backdrop, this.width, HEIGHT), scene);
    }
    const context = fit(this.canvas, this.width, HEIGHT);
    context.clearRect(0, 0, this.width, HEIGHT);
    context.drawImage(this.backdrop, 0, 0, this.width, HEIGHT);
    const x = this.x(moment.frame + moment.blend);
    context.fillStyle = palette.ink;
    context.fillRect(x - 0.5, 16, 1, HEIGHT - 38);
    /** @type {string[]} */
    const words = [];
    for (const arm of run.arms) {
      const step = clock.step(moment.frame, arm.id) ?? 0;
      const value = this.scale.percent ? run.scalar(arm.id, this.name, step) : along(run.curve(arm.id, this.name), step);
      if (value === null || value === undefined) continue;
      words.push(run.arms.length > 1 ? `${arm.name} ${this.scale.words(value)}` : this.scale.words(value));
      dot(context, x, 18 + (HEIGHT - 40) * (1 - this.scale.share(value)), hues.colour(arm.id), palette.paper);
    }
    if (run.arms.length === 1 && words[0]) {
      context.font = "600 11px system-ui, sans-serif";
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillStyle = palette.ink;
      context.fillText(words[0], this.width - RIGHT - 26, 10);
    }
    this.canvas.setAttribute("aria-label", `${this.name}: ${words.join(", ")}`);
  }

  /**
   * The values under the pointer.
   * @param {MouseEvent} event
   * @param {Scene} scene
   */
  hover(event, { run, clock }) {
    const tick = this.tickAt(event);
    /** @type {[string, string][]} */
    const rows = [];
    for (const arm of run.arms) {
      const value = run.scalar(arm.id, this.name, clock.step(tick, arm.id) ?? 0);
      if (value !== undefined) rows.push([run.arms.length > 1 ? arm.name : this.name, this.scale.words(value)]);
    }
    return { title: `${this.name} · ${this.curves.strips.words(tick).replace(/ of .*/, "")}`, rows };
  }

  /** @returns {import("gammabeta/pictures.js").Picture | null} */
  picture() {
    const { scene } = this;
    return scene && { width: this.width, height: HEIGHT, paint: (context) => this.paint(context, scene) };
  }
}
