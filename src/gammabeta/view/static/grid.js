// The arms side by side: one row per layer, the input at the bottom, and one cell per stage.

import { Cell } from "gammabeta/cell.js";
import { element, fit } from "gammabeta/dom.js";
import { number, percent, STAGE_NAMES, STAGE_WORDS } from "gammabeta/format.js";
import { hueOf } from "gammabeta/theme.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

/** Height of a row if there are more than MANY layers; the page scrolls. */
const LOW = 46;
const MANY = 7;
/** Height of all rows together if there are few layers, within limits per row. */
const ALL = 300;

export class Grid {
  /**
   * @param {Run} run
   * @param {(layer: number) => void} open
   */
  constructor(run, open) {
    this.run = run;
    this.open = open;
    this.element = element("section", { class: "arms", "aria-label": "Signals, layer by layer" });
    /** @type {Cell[]} */
    this.cells = [];
    /** @type {{canvas: HTMLCanvasElement}[]} */
    this.feet = [];
    /** @type {{arm: number, loss: HTMLElement, accuracy: HTMLElement}[]} */
    this.readouts = [];
    this.built = "";
    /** Cells on the screen; only they are drawn. @type {Set<Element>} */
    this.visible = new Set();
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.isIntersecting) this.visible.add(entry.target);
        else this.visible.delete(entry.target);
      }
      this.element.dispatchEvent(new Event("shown"));
    });
    this.shownArm = -1;
  }

  /** Build the elements; rebuild them if the run has a new arm, layer or stage. */
  build() {
    const { run } = this;
    const key = JSON.stringify([run.arms, run.probes.length]);
    if (key === this.built) return;
    this.built = key;
    this.cells = [];
    this.feet = [];
    this.readouts = [];
    this.visible.clear();
    this.observer.disconnect();
    const arms = run.arms.filter((arm) => run.stages(arm.id).length > 0);
    this.element.replaceChildren();
    if (arms.length === 0) {
      const words = run.running
        ? "No frame yet: waiting for the first step."
        : run.last > 0
          ? "No layer was seen in this run: only its scalars were recorded."
          : "This run ended before its first frame.";
      this.element.append(element("p", { class: "message" }, words));
      return;
    }
    if (!arms.some((arm) => arm.id === this.shownArm)) this.shownArm = arms[arms.length - 1]?.id ?? 0;
    if (arms.length > 1) this.element.append(this.tabs(arms));
    const columns = arms.map((arm) => `minmax(0, ${run.stages(arm.id).length}fr)`).join(" ");
    const panels = element("div", { class: "panels" });
    panels.style.setProperty("--columns", columns);
    for (const arm of arms) panels.append(this.arm(arm));
    this.element.append(panels);
    for (const cell of this.cells) this.observer.observe(cell.canvas);
  }

  /** @param {import("gammabeta/run.js").Arm[]} arms */
  tabs(arms) {
    const bar = element("div", { class: "tabs", role: "group", "aria-label": "Arm shown" });
    for (const arm of arms) {
      const button = element("button", { type: "button", class: hueOf(this.run, arm.id) }, arm.name);
      button.setAttribute("aria-pressed", String(arm.id === this.shownArm));
      button.addEventListener("click", () => {
        this.shownArm = arm.id;
        this.built = "";
        this.build();
        this.element.dispatchEvent(new Event("shown"));
        /** @type {HTMLElement | null} */ (this.element.querySelector(".tabs [aria-pressed=true]"))?.focus();
      });
      bar.append(button);
    }
    return bar;
  }

  /** @param {import("gammabeta/run.js").Arm} arm */
  arm(arm) {
    const { run } = this;
    const stages = run.stages(arm.id);
    const hue = hueOf(run, arm.id);
    const section = element("section", { class: `arm ${hue}`, "aria-label": arm.name });
    section.classList.toggle("shown", arm.id === this.shownArm);
    const loss = element("span", { class: "value" });
    const accuracy = element("span", { class: "value" });
    this.readouts.push({ arm: arm.id, loss, accuracy });
    section.append(
      element(
        "header",
        {},
        element("h2", {}, arm.name),
        element("p", { class: "readout" }, accuracy, loss),
      ),
    );
    const table = element("div", { class: "table" });
    table.style.setProperty("--stages", String(stages.length));
    table.append(element("span", { class: "corner" }));
    for (const stage of stages) {
      table.append(
        element(
          "div",
          { class: "head" },
          element("b", {}, STAGE_NAMES[stage] ?? stage),
          element("small", {}, STAGE_WORDS[stage] ?? ""),
        ),
      );
    }
    const depth = Math.max(...run.probes.filter((p) => p.arm === arm.id).map((p) => p.layer));
    for (let layer = depth; layer >= 1; layer--) {
      const first = run.probes.find((p) => p.arm === arm.id && p.layer === layer);
      const name = element("button", { type: "button", class: "layer", title: first?.name ?? "" }, String(layer));
      name.setAttribute("aria-label", `Open layer ${layer}, ${arm.name}`);
      name.addEventListener("click", () => this.open(layer));
      table.append(name);
      for (const stage of stages) {
        const cell = new Cell(arm.id, layer, stage, hue);
        cell.preactivation = run.preactivation(arm.id, layer);
        cell.canvas.addEventListener("click", () => this.open(layer));
        this.cells.push(cell);
        table.append(cell.canvas);
      }
    }
    table.append(element("span", { class: "corner" }));
    for (let i = 0; i < stages.length; i++) {
      const canvas = element("canvas", { class: "foot", "aria-hidden": "true" });
      this.feet.push({ canvas });
      table.append(canvas);
    }
    section.append(table);
    return section;
  }

  /** Take the sizes the layout gives; draw the axes. @param {Scene} scene */
  measure(scene) {
    const depth = Math.max(1, this.run.depth);
    const tall = depth > MANY ? LOW : Math.max(64, Math.min(150, Math.round(ALL / depth)));
    this.element.style.setProperty("--row", `${tall}px`);
    for (const cell of this.cells) {
      cell.width = cell.canvas.clientWidth;
      cell.height = cell.canvas.clientHeight;
    }
    for (const { canvas } of this.feet) drawAxis(canvas, scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    for (const cell of this.cells) if (this.visible.has(cell.canvas)) cell.draw(scene);
    const step = scene.run.steps[scene.moment.frame] ?? 0;
    for (const { arm, loss, accuracy } of this.readouts) {
      const a = scene.run.scalar(arm, "accuracy", step);
      const l = scene.run.scalar(arm, "loss", step);
      const diverged = scene.run.diverged(arm, step);
      const words = diverged !== undefined ? `diverged at step ${diverged}` : l === undefined ? "" : `loss ${number(l)}`;
      setText(accuracy, a === undefined ? "" : `accuracy ${percent(a)}`);
      setText(loss, words);
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
function describe(scene, cell) {
  const signal = scene.run.signal(scene.run.probe(cell.arm, cell.layer, cell.stage), scene.moment.frame);
  const name = `Layer ${cell.layer}, ${STAGE_NAMES[cell.stage] ?? cell.stage}`;
  if (!signal) return `${name}: not recorded`;
  const saturated = signal.saturated === null ? "" : `, ${percent(signal.saturated)} saturated`;
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
  context.fillStyle = palette.muted;
  context.font = "10px system-ui, sans-serif";
  context.textBaseline = "top";
  // Omit a label that would touch an earlier one; the tick stays.
  /** @type {[number, number][]} */
  const taken = [];
  for (const x of run.axis.ticks()) {
    const text = String(x).replace("-", "−");
    const wide = context.measureText(text).width;
    const at = run.axis.position(x) * width;
    const left = Math.min(width - wide, Math.max(0, at - wide / 2));
    context.fillRect(Math.min(width - 1, Math.max(0, at - 0.5)), 0, 1, 3);
    if (taken.some(([from, to]) => left < to + 5 && left + wide > from - 5)) continue;
    taken.push([left, left + wide]);
    context.fillText(text, left, 5);
  }
}

/**
 * @param {HTMLElement} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
