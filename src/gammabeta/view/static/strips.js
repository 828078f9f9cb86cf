// The strips over time: curves and the map of all rows, on one axis that is also the slider.

import { element, fit, option } from "gammabeta/dom.js";
import { flags, paintFlags } from "gammabeta/flags.js";
import { duration } from "gammabeta/lines.js";
import { measure, offered, valueOf } from "gammabeta/measures.js";
import { paint } from "gammabeta/painter.js";
import { pictures } from "gammabeta/pictures.js";
import { playhead } from "gammabeta/playhead.js";
import { words } from "gammabeta/rowpaint.js";
import { Timeline } from "gammabeta/timeline.js";
import { VerdictMarks } from "gammabeta/verdictmarks.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {{seek: (tick: number) => void, pick: (row: Row) => void, changed: () => void, verdicts: (verdicts: import("gammabeta/run.js").Verdict[]) => void}} Hands */

export class Strips {
  /**
   * @param {Run} run
   * @param {import("gammabeta/clock.js").Clock} clock
   * @param {Hands} hands
   */
  constructor(run, clock, hands) {
    this.run = run;
    this.clock = clock;
    this.time = new Timeline(run, clock);
    this.canvas = element("canvas", { class: "strips" });
    this.slider = element("div", { class: "slider", role: "slider", tabindex: "0", "aria-label": "Step" }, this.canvas);
    this.select = element("select", { class: "measure", "aria-label": "Statistic of the map" });
    this.compare = element("select", { class: "measure", "aria-label": "Compare the arms" });
    this.head = element("div", { class: "maphead" }, this.select, this.compare);
    this.menu = pictures("curves and map", () => this.picture());
    this.verdicts = new VerdictMarks(run, hands.verdicts);
    this.track = element("div", { class: "track" }, this.slider, this.verdicts.element, this.head, this.menu);
    this.element = element("section", { class: "time", "aria-label": "Curves and statistics over time" }, this.track);
    /** What does not move with the playhead. */
    this.backdrop = document.createElement("canvas");
    this.key = "";
    /** The names beside the map. */
    this.flagged = "";
    /** Where the canvas is, while the playhead is dragged. */
    this.box = 0;
    /** Where the playhead was drawn. @type {number | null} */
    this.playhead = null;
    this.front = -1;
    /** An arm with which the others are compared. @type {number | null} */
    this.base = null;
    this.measure = measure("enters");
    /** @type {{label: string, from: number, to: number}[]} */
    this.groups = [];
    /** @type {Map<string, import("gammabeta/heat.js").Heat>} */
    this.heats = new Map();
    /** @type {Map<number, Row[]>} */
    this.lists = new Map();
    this.listed = run.rows;
    /** A row to be pointed at in the map. @type {Row | null} */
    this.marked = null;
    /** @type {Scene | null} */
    this.scene = null;
    this.select.addEventListener("change", () => {
      this.measure = measure(this.select.value);
      hands.changed();
    });
    this.compare.addEventListener("change", () => {
      this.base = this.compare.value === "" ? null : Number(this.compare.value);
      hands.changed();
    });
    let from = -1;
    this.slider.addEventListener("pointerdown", (event) => {
      from = event.clientX;
      this.box = this.canvas.getBoundingClientRect().left;
      this.slider.setPointerCapture(event.pointerId);
      hands.seek(this.tickAt(event));
    });
    this.slider.addEventListener("pointermove", (event) => {
      if (from >= 0) hands.seek(this.time.tickAt(event.clientX - this.box));
    });
    for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) {
      this.slider.addEventListener(end, (event) => {
        const place = Math.abs(event.clientX - from) < 4 && end === "pointerup" ? this.placeAt(event) : null;
        from = -1;
        if (place) hands.pick(place.row);
      });
    }
  }

  /** @param {number} arm */
  rowsOf(arm) {
    if (this.listed !== this.run.rows) {
      this.listed = this.run.rows;
      this.lists.clear();
    }
    let list = this.lists.get(arm);
    if (!list) this.lists.set(arm, (list = this.run.rows.all.filter((row) => row.arms.has(arm))));
    return list;
  }

  /** Offer what the run has. @param {boolean} few */
  build(few) {
    const { run } = this;
    this.time.few = few;
    const measures = offered(run);
    if (!measures.includes(this.measure)) this.measure = measures[0] ?? this.measure;
    this.select.replaceChildren(...measures.map((each) => option(each.key, each.label)));
    this.select.value = this.measure.key;
    const arms = run.shown;
    if (this.base !== null && !arms.some((arm) => arm.id === this.base)) this.base = null;
    this.compare.replaceChildren(option("", "each by itself"), ...arms.map((arm) => option(String(arm.id), `difference to ${arm.name}`)));
    this.compare.value = this.base === null ? "" : String(this.base);
    this.compare.hidden = arms.length < 2;
    this.head.hidden = arms.length === 0 || this.clock.length === 0;
  }

  /** Which maps are shown: each arm's if they are two, else the one in front. */
  maps() {
    const arms = this.run.shown.map((arm) => arm.id);
    if (this.base !== null) {
      const other = this.front !== this.base ? this.front : arms.find((arm) => arm !== this.base);
      return other === undefined ? [] : [/** @type {[number, number | null]} */ ([other, this.base])];
    }
    const some = this.time.few || arms.length <= 2 ? arms : arms.filter((arm) => arm === this.front);
    return some.map((arm) => /** @type {[number, number | null]} */ ([arm, null]));
  }

  /** @param {MouseEvent} event */
  tickAt(event) {
    return this.time.tickAt(event.clientX - this.canvas.getBoundingClientRect().left);
  }

  /** @param {MouseEvent} event */
  placeAt(event) {
    return this.time.rowAt(event.clientY - this.canvas.getBoundingClientRect().top, (arm) => this.rowsOf(arm));
  }

  /** @returns {import("gammabeta/painter.js").View} */
  get view() {
    const { time, measure: what, front, groups, heats } = this;
    return { time, measure: what, front, groups, heats, rowsOf: (arm) => this.rowsOf(arm), title: false };
  }

  /** @param {Scene} scene */
  measureSize(scene) {
    this.time.maps = this.maps();
    this.time.layout(this.element.clientWidth);
    this.key = "";
    this.head.style.left = `${this.time.left - 4}px`;
    this.head.style.top = `${this.time.mapTop - 21}px`;
    this.draw(scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    const { time, clock } = this;
    const { palette, moment, store } = scene;
    this.scene = scene;
    if (time.width < 2 || (clock.length === 0 && time.bands.length === 0)) return;
    const columns = [this.measure.field, "nonfinite", "count"].map((field) => store.columns.get(field)?.frames);
    const key = [clock.length, clock.mode, time.width, time.height, palette.paper, this.run.probes.length, this.run.marks.length, this.run.verdicts.length, this.measure.key, this.base, this.front, ...columns].join();
    if (key !== this.key) {
      this.key = key;
      this.canvas.style.height = `${time.height}px`;
      paint(fit(this.backdrop, time.width, time.height), scene, this.view);
      this.playhead = null;
      this.verdicts.draw(scene, time);
    }
    this.drawPlayhead(scene, time.x(moment.frame + moment.blend));
    this.slider.setAttribute("aria-valuemin", "0");
    this.slider.setAttribute("aria-valuemax", String(Math.max(0, clock.length - 1)));
    this.slider.setAttribute("aria-valuenow", String(moment.frame));
    this.slider.setAttribute("aria-valuetext", this.words(moment.frame));
  }

  /** The step or the time at a tick, of the last. @param {number} tick */
  words(tick) {
    const { at, length, mode } = this.clock;
    const [here, last] = [at[tick] ?? 0, at[length - 1] ?? 0];
    return mode === "time" ? `${duration(here)} of ${duration(last)}` : `step ${here} of ${last}`;
  }

  /**
   * Move the playhead: redraw only its old and new positions, and the names beside the map.
   * @param {Scene} scene
   * @param {number} x
   */
  drawPlayhead(scene, x) {
    const { time } = this;
    const context = fit(this.canvas, time.width, time.height);
    const whole = this.playhead === null;
    const from = whole ? 0 : Math.floor(Math.min(x, this.playhead ?? 0) - 8);
    const to = whole ? time.width : Math.ceil(Math.max(x, this.playhead ?? 0) + 8);
    this.playhead = x;
    const names = flags(scene, this.view);
    const key = names.map(({ text, y }) => `${text} ${y}`).join();
    const margin = key !== this.flagged && !whole;
    this.flagged = key;
    context.save();
    context.beginPath();
    context.rect(from, 0, to - from, time.height);
    if (margin) context.rect(time.end + 1, 0, time.right, time.height);
    context.clip();
    context.clearRect(from, 0, to - from, time.height);
    if (margin) context.clearRect(time.end + 1, 0, time.right, time.height);
    context.drawImage(this.backdrop, 0, 0, time.width, time.height);
    playhead(context, scene, { ...this.view, marked: this.marked }, x);
    if (whole || margin || to > time.end) paintFlags(context, scene, time, names);
    context.restore();
  }

  /** This panel as a picture. @returns {import("gammabeta/pictures.js").Picture | null} */
  picture() {
    const { scene, time } = this;
    if (!scene) return null;
    return {
      width: time.width,
      height: time.height,
      paint: (context) => {
        paint(context, scene, { ...this.view, title: true });
        playhead(context, scene, { ...this.view, marked: this.marked }, time.x(scene.moment.frame));
        paintFlags(context, scene, time, flags(scene, this.view));
      },
    };
  }

  /**
   * The numbers under the pointer, or null.
   * @param {MouseEvent} event
   * @param {Scene} scene
   */
  hover(event, { run, store, clock }) {
    const { time } = this;
    const tick = this.tickAt(event);
    if (clock.length === 0) return null;
    /** @type {[string, string][]} */
    const rows = [];
    const place = this.placeAt(event);
    let title = this.words(tick).replace(/ of .*/, "");
    if (place) {
      title = `${place.row.title} · ${title}`;
      for (const arm of run.shown) {
        const value = valueOf(store, place.row, arm.id, clock.frame(arm.id, tick), this.measure);
        if (!place.row.arms.has(arm.id)) continue;
        const text = Number.isNaN(value) ? "–" : words(value, this.measure);
        rows.push([run.shown.length > 1 ? arm.name : this.measure.label, text]);
      }
    } else {
      for (const band of time.bands) {
        for (const arm of run.arms) {
          const value = run.scalar(arm.id, band.name, clock.step(tick, arm.id) ?? 0);
          if (value !== undefined) rows.push([run.arms.length > 1 ? `${band.name} ${arm.name}` : band.name, band.scale.words(value)]);
        }
      }
      for (const mark of run.marks) {
        if (Math.abs(time.x(clock.tickOfStep(mark.step, mark.arm)) - time.x(tick)) < 6) rows.push(["mark", mark.text]);
      }
    }
    return rows.length ? { title, rows } : null;
  }
}
