// An open layer: its stages for every arm, large, with their numbers below.

import { Cell } from "gammabeta/cell.js";
import { element, icon } from "gammabeta/dom.js";
import { STAGE_NAMES, STAGE_WORDS } from "gammabeta/format.js";
import { drawAxis } from "gammabeta/grid.js";
import { hueOf } from "gammabeta/theme.js";
import { signalRows } from "gammabeta/tip.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

export class Detail {
  /**
   * @param {Run} run
   * @param {() => void} close
   */
  constructor(run, close) {
    this.run = run;
    this.close = close;
    this.element = element("section", { class: "detail", hidden: "", tabindex: "-1" });
    /** @type {number | null} */
    this.layer = null;
    /** @type {Cell[]} */
    this.cells = [];
    /** @type {HTMLCanvasElement[]} */
    this.feet = [];
    /** @type {{probe: import("gammabeta/run.js").Probe, list: HTMLElement}[]} */
    this.numbers = [];
    this.written = "";
  }

  /** @param {number | null} layer */
  open(layer) {
    this.layer = layer;
    this.cells = [];
    this.feet = [];
    this.numbers = [];
    this.written = "";
    this.element.hidden = layer === null;
    this.element.replaceChildren();
    if (layer === null) return;
    const { run } = this;
    const probe = run.probes.find((p) => p.layer === layer);
    const heading = `Layer ${layer} of ${run.depth}`;
    this.element.setAttribute("aria-label", heading);
    const shut = element("button", { type: "button", class: "icon", "aria-label": "Close layer" }, icon("close"));
    shut.addEventListener("click", () => this.close());
    this.element.append(element("header", {}, element("h2", {}, heading), element("code", {}, probe?.name ?? ""), shut));
    const arms = run.arms.filter((arm) => run.probes.some((p) => p.arm === arm.id && p.layer === layer));
    const panels = element("div", { class: "panels" });
    panels.style.setProperty("--columns", arms.map((arm) => `minmax(0, ${run.stages(arm.id).length}fr)`).join(" "));
    for (const arm of arms) {
      const hue = hueOf(run, arm.id);
      const section = element("section", { class: `arm ${hue}`, "aria-label": `${heading}, ${arm.name}` });
      const columns = element("div", { class: "stages" });
      for (const stage of run.stages(arm.id)) {
        const probe = run.probe(arm.id, layer, stage);
        if (!probe) continue;
        const cell = new Cell(arm.id, layer, stage, hue);
        cell.preactivation = run.preactivation(arm.id, layer);
        cell.canvas.removeAttribute("role"); // its numbers are listed below
        cell.canvas.setAttribute("aria-hidden", "true");
        const foot = element("canvas", { class: "foot", "aria-hidden": "true" });
        const name = STAGE_NAMES[stage] ?? stage;
        const numbers = element("dl", { class: "numbers" });
        const head = element("div", { class: "head" }, element("b", {}, name), element("small", {}, STAGE_WORDS[stage] ?? ""));
        this.cells.push(cell);
        this.feet.push(foot);
        this.numbers.push({ probe, list: numbers });
        columns.append(element("div", { class: "stage", role: "group", "aria-label": `${name}, ${arm.name}` }, head, cell.canvas, foot, numbers));
      }
      section.append(element("header", {}, element("h3", {}, arm.name)), columns);
      panels.append(section);
    }
    this.element.append(panels);
    this.element.focus({ preventScroll: true });
  }

  /** @param {Scene} scene */
  measure(scene) {
    for (const cell of this.cells) {
      cell.width = cell.canvas.clientWidth;
      cell.height = cell.canvas.clientHeight;
    }
    for (const foot of this.feet) drawAxis(foot, scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    if (this.layer === null) return;
    for (const cell of this.cells) cell.draw(scene);
    const key = `${scene.moment.frame} ${scene.run.length}`;
    if (key === this.written) return;
    this.written = key;
    for (const { probe, list } of this.numbers) {
      const signal = scene.run.signal(probe, scene.moment.frame);
      const rows = signal ? signalRows(signal, scene.run.fields) : [];
      list.replaceChildren(
        ...rows.flatMap(([name, value, title]) => [element("dt", { title }, name), element("dd", {}, value)]),
      );
    }
  }
}
