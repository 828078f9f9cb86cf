// An open layer: its stages, large, their percentiles over time and numbers; then what else is known of it.

import { Bands } from "gammabeta/bands.js";
import { Cell } from "gammabeta/cell.js";
import { BY_CHANNEL, Channels } from "gammabeta/channels.js";
import { button, element, icon } from "gammabeta/dom.js";
import { STAGE_NAMES, STAGE_WORDS } from "gammabeta/format.js";
import { drawAxis } from "gammabeta/grid.js";
import { offered } from "gammabeta/measures.js";
import { signalRows } from "gammabeta/tip.js";
import { Trend } from "gammabeta/trend.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/chart.js").Chart} Chart */

/** Statistics that are drawn over time. */
const TRENDS = ["std", "gradient", "update", "norm", "saturated", "dead"];
/** More arms than this share the cells of one: the others are outlines. */
const BESIDE = 2;

export class Detail {
  /**
   * @param {Run} run
   * @param {import("gammabeta/timeline.js").Timeline} time
   * @param {{close: () => void, move: (by: number) => void, seek: (tick: number) => void}} hands
   */
  constructor(run, time, hands) {
    this.run = run;
    this.time = time;
    this.hands = hands;
    this.element = element("section", { class: "detail", hidden: "", tabindex: "-1" });
    /** @type {Row | null} */
    this.row = null;
    this.front = -1;
    /** @type {Cell[]} */
    this.cells = [];
    /** @type {HTMLCanvasElement[]} */
    this.feet = [];
    /** @type {Chart[]} */
    this.charts = [];
    /** @type {{arm: number, probe: number, list: HTMLElement}[]} */
    this.numbers = [];
    this.written = "";
  }

  /**
   * @param {Row | null} row
   * @param {Scene} scene
   */
  open(row, scene) {
    this.row = row;
    this.cells = [];
    this.feet = [];
    this.charts = [];
    this.numbers = [];
    this.written = "";
    this.element.hidden = row === null;
    this.element.replaceChildren();
    if (row === null) return;
    const { run } = this;
    this.element.setAttribute("aria-label", row.title);
    const shut = button("icon", "Close layer", icon("close"));
    shut.addEventListener("click", () => this.hands.close());
    const before = button("icon", "Layer before", icon("up"));
    before.addEventListener("click", () => this.hands.move(-1));
    const after = button("icon", "Layer after", icon("down"));
    after.addEventListener("click", () => this.hands.move(1));
    this.element.append(element("header", {}, element("h2", {}, row.title), element("span", { class: "place" }, `${row.index + 1} of ${run.rows.length}`), before, after, shut));
    const all = run.shown.filter((arm) => row.arms.has(arm.id));
    const arms = all.length > BESIDE ? [all.find((arm) => arm.id === this.front) ?? /** @type {typeof all[0]} */ (all[0])] : all;
    const panels = element("div", { class: "panels" });
    panels.style.setProperty("--columns", arms.map((arm) => `minmax(0, ${Math.max(1, row.stages(arm.id).length)}fr)`).join(" "));
    for (const arm of arms) panels.append(this.arm(row, arm, scene));
    this.element.append(panels, this.more(row));
    this.element.focus({ preventScroll: true });
  }

  /**
   * @param {Row} row
   * @param {import("gammabeta/run.js").Arm} arm
   * @param {Scene} scene
   */
  arm(row, arm, scene) {
    const section = element("section", { class: `arm ${scene.hues.name(arm.id)}`, "aria-label": `${row.title}, ${arm.name}` });
    const columns = element("div", { class: "stages" });
    for (const stage of row.stages(arm.id)) {
      const probe = row.probe(arm.id, stage);
      if (!probe) continue;
      const cell = new Cell(arm.id, row, stage);
      cell.canvas.removeAttribute("role"); // its numbers are listed below
      cell.canvas.setAttribute("aria-hidden", "true");
      const foot = element("canvas", { class: "foot", "aria-hidden": "true" });
      const name = STAGE_NAMES[stage] ?? stage;
      const numbers = element("dl", { class: "numbers" });
      const head = element("div", { class: "head" }, element("b", {}, name), element("small", {}, STAGE_WORDS[stage] ?? ""));
      const bands = new Bands(row, arm.id, stage, this.time);
      bands.scrub(this.hands.seek);
      this.charts.push(bands);
      this.cells.push(cell);
      this.feet.push(foot);
      this.numbers.push({ arm: arm.id, probe: probe.id, list: numbers });
      columns.append(element("div", { class: "stage", role: "group", "aria-label": `${name}, ${arm.name}` }, head, cell.canvas, foot, bands.element, numbers));
    }
    if (this.run.shown.length > 1) section.append(element("header", {}, element("h3", {}, arm.name)));
    section.append(columns);
    return section;
  }

  /** What is known of a row beside its distributions. @param {Row} row */
  more(row) {
    const box = element("div", { class: "curves" });
    const stages = new Set([...row.arms.values()].flatMap((known) => [...known.keys()]));
    for (const what of offered(this.run)) {
      if (!TRENDS.includes(what.key) || !what.stages.some((stage) => stages.has(stage))) continue;
      const activates = [...row.arms.keys()].some((arm) => row.activation(arm));
      if (what.scale === "share" && !activates) continue;
      const trend = new Trend(row, what, this.time);
      trend.scrub(this.hands.seek);
      this.charts.push(trend);
    }
    for (const [stage, label] of BY_CHANNEL) if (stages.has(stage)) this.charts.push(new Channels(row, stage, label));
    box.append(...this.charts.filter((chart) => !(chart instanceof Bands)).map((chart) => chart.element));
    return box;
  }

  /** @param {Scene} scene */
  measure(scene) {
    for (const cell of this.cells) {
      cell.width = cell.canvas.clientWidth;
      cell.height = cell.canvas.clientHeight;
    }
    for (const foot of this.feet) drawAxis(foot, scene);
    for (const chart of this.charts) chart.measure(scene);
  }

  /** @param {Scene} scene */
  draw(scene) {
    if (this.row === null) return;
    for (const cell of this.cells) cell.draw(scene);
    for (const chart of this.charts) chart.draw(scene);
    const { clock, moment, store } = scene;
    const key = `${moment.frame} ${clock.length} ${store.version}`;
    if (key === this.written) return;
    this.written = key;
    for (const { arm, probe, list } of this.numbers) {
      const rows = signalRows(store, clock.frame(arm, moment.frame), probe);
      list.replaceChildren(...rows.flatMap(([name, value, title]) => [element("dt", { title }, name), element("dd", {}, value)]));
    }
  }
}
