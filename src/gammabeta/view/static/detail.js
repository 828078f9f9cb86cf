// One layer opened: its stages large, its numbers in a table, for every arm.

import { Cell } from "gammabeta/cell.js";
import { element, icon } from "gammabeta/dom.js";
import { STAGE_NAMES, STAGE_WORDS } from "gammabeta/format.js";
import { drawAxis, hueOf } from "gammabeta/grid.js";
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
    /** @type {{arm: number, body: HTMLElement}[]} */
    this.tables = [];
    this.written = "";
  }

  /** @param {number | null} layer */
  open(layer) {
    this.layer = layer;
    this.cells = [];
    this.feet = [];
    this.tables = [];
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
    for (const arm of run.arms) {
      const stages = run.stages(arm.id).filter((stage) => run.probe(arm.id, layer, stage));
      if (stages.length === 0) continue;
      const hue = hueOf(run, arm.id);
      const section = element("section", { class: `arm shown ${hue}`, "aria-label": `${heading}, ${arm.name}` });
      section.append(element("header", {}, element("h3", {}, arm.name)));
      const table = element("div", { class: "stages" });
      for (const stage of stages) {
        const cell = new Cell(arm.id, layer, stage, hue);
        cell.preactivation = run.preactivation(arm.id, layer);
        const foot = element("canvas", { class: "foot", "aria-hidden": "true" });
        this.cells.push(cell);
        this.feet.push(foot);
        table.append(
          element(
            "div",
            { class: "stage" },
            element("div", { class: "head" }, element("b", {}, STAGE_NAMES[stage] ?? stage), element("small", {}, STAGE_WORDS[stage] ?? "")),
            cell.canvas,
            foot,
          ),
        );
      }
      const body = element("tbody");
      this.tables.push({ arm: arm.id, body });
      const head = element("tr", {}, element("td"), ...stages.map((stage) => element("th", { scope: "col" }, STAGE_NAMES[stage] ?? stage)));
      const numbers = element("table", { class: "numbers" }, element("thead", {}, head), body);
      section.append(table, element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `Numbers, ${arm.name}` }, numbers));
      this.element.append(section);
    }
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
    for (const { arm, body } of this.tables) body.replaceChildren(...this.rows(scene, arm));
  }

  /**
   * @param {Scene} scene
   * @param {number} arm
   */
  rows(scene, arm) {
    const { run } = scene;
    const layer = this.layer ?? 0;
    const columns = run
      .stages(arm)
      .map((stage) => run.probe(arm, layer, stage))
      .filter((probe) => probe !== undefined)
      .map((probe) => new Map(signalRowsOf(run, probe, scene.moment.frame)));
    const names = [...new Set(columns.flatMap((column) => [...column.keys()]))];
    return names.map((name) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, name),
        ...columns.map((column) => element("td", {}, column.get(name) ?? "–")),
      ),
    );
  }
}

/**
 * @param {Run} run
 * @param {import("gammabeta/run.js").Probe} probe
 * @param {number} frame
 */
function signalRowsOf(run, probe, frame) {
  const signal = run.signal(probe, frame);
  return signal ? signalRows(signal) : [];
}
