// Few layers, in full: the arms side by side, a row a layer, the input at the bottom, a cell a stage.

import { Cell } from "gammabeta/cell.js";
import { element, fit, setText } from "gammabeta/dom.js";
import { number, percent, STAGE_NAMES, STAGE_WORDS } from "gammabeta/format.js";
import { axisTicks } from "gammabeta/outline.js";
import { reading } from "gammabeta/reading.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

/** Height of all rows together, within limits per row. */
const ALL = 300;

export class Grid {
  /**
   * @param {Run} run
   * @param {(row: Row) => void} open
   */
  constructor(run, open) {
    this.run = run;
    this.open = open;
    this.element = element("section", { class: "arms", "aria-label": "Signals, layer by layer" });
    /** @type {Cell[]} */
    this.cells = [];
    /** @type {HTMLCanvasElement[]} */
    this.feet = [];
    /** @type {{arm: number, loss: HTMLElement, accuracy: HTMLElement}[]} */
    this.readouts = [];
    this.built = "";
    this.shownArm = -1;
    this.rows = 1;
  }

  /** Build the elements; rebuild them if the run has a new arm, layer or stage. @param {Scene} scene */
  build(scene) {
    const { run } = this;
    const key = JSON.stringify([run.arms, run.probes.length]);
    if (key === this.built) return;
    this.built = key;
    this.cells = [];
    this.feet = [];
    this.readouts = [];
    const arms = run.shown;
    this.rows = Math.max(1, ...arms.map((arm) => run.rows.depth(arm.id)));
    this.element.replaceChildren();
    if (!arms.some((arm) => arm.id === this.shownArm)) this.shownArm = arms[arms.length - 1]?.id ?? 0;
    if (arms.length > 1) this.element.append(this.tabs(arms, scene));
    const panels = element("div", { class: "panels" });
    panels.style.setProperty("--columns", arms.map((arm) => `minmax(0, ${run.rows.stages(arm.id).length}fr)`).join(" "));
    for (const arm of arms) panels.append(this.arm(arm, scene));
    this.element.append(panels);
  }

  /**
   * @param {import("gammabeta/run.js").Arm[]} arms
   * @param {Scene} scene
   */
  tabs(arms, scene) {
    const bar = element("div", { class: "tabs", role: "group", "aria-label": "Arm shown" });
    for (const arm of arms) {
      const button = element("button", { type: "button", class: scene.hues.name(arm.id) }, arm.name);
      button.setAttribute("aria-pressed", String(arm.id === this.shownArm));
      button.addEventListener("click", () => {
        this.shownArm = arm.id;
        this.built = "";
        this.build(scene);
        this.element.dispatchEvent(new Event("shown"));
        /** @type {HTMLElement | null} */ (this.element.querySelector(".tabs [aria-pressed=true]"))?.focus();
      });
      bar.append(button);
    }
    return bar;
  }

  /**
   * @param {import("gammabeta/run.js").Arm} arm
   * @param {Scene} scene
   */
  arm(arm, scene) {
    const { run } = this;
    const stages = run.rows.stages(arm.id);
    const section = element("section", { class: `arm ${scene.hues.name(arm.id)}`, "aria-label": arm.name });
    section.classList.toggle("shown", arm.id === this.shownArm);
    const loss = element("span", { class: "value" });
    const accuracy = element("span", { class: "value" });
    this.readouts.push({ arm: arm.id, loss, accuracy });
    section.append(element("header", {}, element("h2", {}, arm.name), element("p", { class: "readout" }, accuracy, loss)));
    const table = element("div", { class: "table" });
    table.style.setProperty("--stages", String(stages.length));
    table.append(element("span", { class: "corner" }));
    for (const stage of stages) {
      table.append(element("div", { class: "head" }, element("b", {}, STAGE_NAMES[stage] ?? stage), element("small", {}, STAGE_WORDS[stage] ?? "")));
    }
    const rows = run.rows.all.filter((row) => row.arms.has(arm.id)).reverse();
    for (const row of rows) {
      const name = element("button", { type: "button", class: "layer", title: row.name }, String(row.layer));
      name.setAttribute("aria-label", `Open ${row.title}, ${arm.name}`);
      name.addEventListener("click", () => this.open(row));
      table.append(name);
      for (const stage of stages) {
        const cell = new Cell(arm.id, row, stage);
        cell.canvas.addEventListener("click", () => this.open(row));
        this.cells.push(cell);
        table.append(cell.canvas);
      }
    }
    table.append(element("span", { class: "corner" }));
    for (let i = 0; i < stages.length; i++) {
      const canvas = element("canvas", { class: "foot", "aria-hidden": "true" });
      this.feet.push(canvas);
      table.append(canvas);
    }
    section.append(table);
    return section;
  }

  /** Take the sizes the layout gives; draw the axes. @param {Scene} scene */
  measure(scene) {
    const tall = Math.max(46, Math.min(150, Math.round(ALL / this.rows)));
    this.element.style.setProperty("--row", `${tall}px`);
    for (const cell of this.cells) {
      cell.width = cell.canvas.clientWidth;
      cell.height = cell.canvas.clientHeight;
    }
    for (const canvas of this.feet) drawAxis(canvas, scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    for (const cell of this.cells) cell.draw(scene);
    for (const { arm, loss, accuracy } of this.readouts) {
      const step = scene.clock.step(scene.moment.frame, arm) ?? 0;
      const a = scene.run.scalar(arm, "accuracy", step);
      const l = scene.run.scalar(arm, "loss", step);
      const diverged = scene.run.diverged(arm, step);
      setText(accuracy, a === undefined || a === null ? "" : `accuracy ${a >= 0 && a <= 1 ? percent(a) : number(a)}`);
      setText(loss, diverged !== undefined ? `diverged at step ${diverged}` : l === undefined ? "" : `loss ${number(l)}`);
    }
  }

  /** Put the numbers into words for those who cannot see the cells. @param {Scene} scene */
  describe(scene) {
    for (const cell of this.cells) cell.canvas.setAttribute("aria-label", describe(scene, cell));
  }
}

/**
 * @param {Scene} scene
 * @param {Cell} cell
 */
function describe({ store, clock, moment }, cell) {
  const signal = reading(store, clock.frame(cell.arm, moment.frame), cell.probe?.id);
  const name = `${cell.row.title}, ${STAGE_NAMES[cell.stage] ?? cell.stage}`;
  if (!signal) return `${name}: not recorded`;
  const saturated = Number.isNaN(signal.saturated) ? "" : `, ${percent(signal.saturated)} saturated`;
  return `${name}: mean ${number(signal.mean)}, standard deviation ${number(signal.std)}${saturated}`;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Scene} scene
 */
export function drawAxis(canvas, { run, palette }) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (width < 2) return;
  const context = fit(canvas, width, height);
  context.clearRect(0, 0, width, height);
  axisTicks(context, run.axis, { x: 0, y: 0, width }, palette);
}
