// A small plot: what does not move with the playhead is painted once, the playhead over it.

import { element, fit } from "gammabeta/dom.js";
import { pictures } from "gammabeta/pictures.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */

export class Chart {
  /**
   * @param {string} name
   * @param {number} height
   * @param {import("gammabeta/timeline.js").Timeline | null} time whose ticks are its x axis, if it has one
   */
  constructor(name, height, time) {
    this.name = name;
    this.tall = height;
    this.time = time;
    this.left = 46;
    this.right = 10;
    this.width = 0;
    this.key = "";
    this.canvas = element("canvas", { role: "img", "aria-label": name });
    this.canvas.style.height = `${height}px`;
    this.element = element("div", { class: "curve" }, this.canvas, pictures(name, () => this.picture()));
    this.backdrop = document.createElement("canvas");
    /** @type {Scene | null} */
    this.scene = null;
  }

  /**
   * Let the pointer move the playhead.
   * @param {(tick: number) => void} seek
   */
  scrub(seek) {
    let dragging = false;
    this.canvas.style.cursor = "ew-resize";
    this.canvas.addEventListener("pointerdown", (event) => {
      dragging = true;
      this.canvas.setPointerCapture(event.pointerId);
      seek(this.tickAt(event));
    });
    this.canvas.addEventListener("pointermove", (event) => dragging && seek(this.tickAt(event)));
    for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) this.canvas.addEventListener(end, () => (dragging = false));
  }

  /** @param {MouseEvent} event */
  tickAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - this.left) / Math.max(1, box.width - this.left - this.right);
    return this.time?.tickOf(Math.min(1, Math.max(0, share))) ?? 0;
  }

  /** @param {number} tick */
  x(tick) {
    return this.left + (this.time?.clockShare(tick) ?? 0) * (this.width - this.left - this.right);
  }

  /** Where the plot is, without its name and its axis. */
  get frame() {
    return { left: this.left, right: this.width - this.right, top: 18, height: this.tall - (this.time ? 40 : 32) };
  }

  /** @param {Scene} scene */
  measure(scene) {
    this.width = this.canvas.clientWidth;
    this.key = "";
    this.draw(scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    this.scene = scene;
    if (this.width < 2) return;
    const { clock, palette, store, moment } = scene;
    const key = [clock.length, clock.mode, this.width, palette.paper, store.version, this.state(scene)].join();
    if (key !== this.key) {
      this.key = key;
      const context = fit(this.backdrop, this.width, this.tall);
      context.clearRect(0, 0, this.width, this.tall);
      this.paint(context, scene);
    }
    const context = fit(this.canvas, this.width, this.tall);
    context.clearRect(0, 0, this.width, this.tall);
    context.drawImage(this.backdrop, 0, 0, this.width, this.tall);
    if (!this.time) return;
    const { top, height } = this.frame;
    context.fillStyle = palette.ink;
    context.fillRect(this.x(moment.frame + moment.blend) - 0.5, top - 2, 1, height + 4);
  }

  /** What else it depends on. @param {Scene} _scene @returns {string | number} */
  state(_scene) {
    return "";
  }

  /**
   * @param {CanvasRenderingContext2D} _context
   * @param {Scene} _scene
   */
  paint(_context, _scene) {
    // each plot has its own
  }

  /**
   * The numbers under the pointer.
   * @param {MouseEvent} _event
   * @param {Scene} _scene
   * @returns {import("gammabeta/tip.js").Words | null}
   */
  hover(_event, _scene) {
    return null;
  }

  /** @returns {import("gammabeta/pictures.js").Picture | null} */
  picture() {
    const { scene } = this;
    return scene && { width: this.width, height: this.tall, paint: (context) => this.paint(context, scene) };
  }
}
