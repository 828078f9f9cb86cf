// The rows of a real model: a module tree of which only what is on the screen exists.

import { columns } from "gammabeta/columns.js";
import { element, fit } from "gammabeta/dom.js";
import { findings } from "gammabeta/findings.js";
import { Histories } from "gammabeta/histories.js";
import { Items } from "gammabeta/items.js";
import { offered } from "gammabeta/measures.js";
import { paintGroup, paintRow } from "gammabeta/rowpaint.js";
import { STAGE_NAMES } from "gammabeta/format.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/tree.js").Item} Item */
/** @typedef {import("gammabeta/findings.js").Finding} Finding */
/** @typedef {{open: (row: Row) => void, changed: () => void, marked: (row: Row | null) => void, sort: (key: string) => void, seek: (share: number) => void}} Hands */

const TALL = 46;
/** A run with more rows has compact ones; with very many, more compact ones. */
const SOME = 24;
const MANY = 100;
/** Rows beyond the edges of the screen that exist, too. */
const OVER = 4;

export class Table {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {import("gammabeta/strips.js").Strips} strips
   * @param {Hands} hands
   */
  constructor(run, strips, hands) {
    this.run = run;
    this.strips = strips;
    this.hands = hands;
    this.canvas = element("canvas", { class: "rowcanvas", "aria-hidden": "true" });
    this.tree = element("div", { class: "items", role: "tree", "aria-label": "Layers" });
    this.scroller = element("div", { class: "scroller" }, this.canvas, this.tree);
    this.head = element("div", { class: "colhead" });
    this.empty = element("p", { class: "none", hidden: "" });
    this.element = element("div", { class: "tablebox" }, this.head, this.scroller, this.empty);
    /** @type {Item[]} */
    this.items = [];
    /** Top of each item, and the end. @type {number[]} */
    this.tops = [0];
    this.elements = new Items(this.tree);
    this.histories = new Histories();
    this.active = 0;
    /** Whether an item was ever made active by somebody. */
    this.touched = false;
    this.width = 0;
    this.viewport = 0;
    /** @type {import("gammabeta/columns.js").Columns | null} */
    this.columns = null;
    this.flat = false;
    /** @type {Scene | null} */
    this.scene = null;
    this.scroller.addEventListener("scroll", () => this.scene && this.draw(this.scene));
    this.tree.addEventListener("keydown", (event) => this.key(event));
    this.tree.addEventListener("click", (event) => this.click(event));
    let dragging = false;
    this.tree.addEventListener("pointerdown", (event) => {
      if (!this.onHistory(event)) return;
      dragging = true;
      this.tree.setPointerCapture(event.pointerId);
      hands.seek(this.share(event));
    });
    this.tree.addEventListener("pointermove", (event) => dragging && hands.seek(this.share(event)));
    for (const end of /** @type {const} */ (["pointerup", "pointercancel"])) this.tree.addEventListener(end, () => (dragging = false));
  }

  /**
   * List these items.
   * @param {Item[]} items
   * @param {boolean} flat whether they have whole names
   */
  list(items, flat) {
    const key = this.items[this.active]?.node.key;
    this.items = items;
    this.flat = flat;
    this.active = Math.max(0, items.findIndex((item) => item.node.key === key));
    const many = items.length > 40;
    const count = this.run.rows.length;
    const leaf = count <= 8 ? 64 : count <= SOME ? TALL : count <= MANY ? 24 : 18;
    let top = 0;
    this.tops = [0];
    for (const { node, open } of items) {
      top += node.row ? leaf : open ? 24 : many ? 24 : TALL;
      this.tops.push(top);
    }
    this.tree.style.height = `${top}px`;
    this.elements.clear();
  }

  /** Take the size that the layout gives. @param {Scene} scene */
  measure(scene) {
    const { run, strips } = this;
    const total = this.tops[this.tops.length - 1] ?? 0;
    const below = document.querySelector(".transport")?.clientHeight ?? 50;
    const above = this.scroller.getBoundingClientRect().top + scrollY;
    this.viewport = Math.min(total, Math.max(Math.min(340, innerHeight * 0.6), innerHeight - above - below - 12));
    this.scroller.style.height = `${this.viewport}px`;
    this.width = this.scroller.clientWidth;
    const known = new Set(offered(run).map((each) => each.key));
    this.columns = columns(this.width, run.rows.stages(strips.front), strips.measure, known);
    this.element.style.setProperty("--name", `${this.columns.name}px`);
    this.heads();
    this.draw(scene);
  }

  /** The names of the columns; a click on a number's sorts by it. */
  heads() {
    if (!this.columns) return;
    const parts = this.columns.stages.map(({ stage, x, width }) => {
      const made = element("span", {}, STAGE_NAMES[stage] ?? stage);
      Object.assign(made.style, { left: `${x}px`, width: `${width}px` });
      return made;
    });
    for (const { key, label, x } of this.columns.numbers) {
      const made = element("button", { type: "button", title: `Sort by ${label}`, "aria-label": `Sort by ${label}` }, label);
      Object.assign(made.style, { right: `${this.columns.width - x}px` });
      made.addEventListener("click", () => this.hands.sort(key));
      parts.push(made);
    }
    const { x, width } = this.columns.history;
    if (width > 60) {
      const made = element("span", {}, `${this.columns.numbers[0]?.label ?? ""} over time`);
      Object.assign(made.style, { left: `${x}px`, width: `${width}px` });
      parts.push(made);
    }
    this.head.replaceChildren(...parts);
  }

  /** @param {Scene} scene */
  draw(scene) {
    this.scene = scene;
    const { columns: placed, strips } = this;
    if (!placed || this.width < 2 || this.viewport < 1) return;
    const { clock, moment, palette } = scene;
    const context = fit(this.canvas, this.width, this.viewport);
    context.clearRect(0, 0, this.width, this.viewport);
    const paint = this.paintItems(context, scene, placed, false);
    if (placed.history.width > 0 && clock.length > 1) {
      const x = placed.history.x + strips.time.clockShare(moment.frame + moment.blend) * placed.history.width;
      context.fillStyle = palette.ink;
      context.fillRect(x - 0.5, 0, 1, this.viewport);
    }
    const [first, last] = this.range(this.scroller.scrollTop);
    this.elements.populate(this, first, last, paint);
  }

  /**
   * The items on the screen and a few around.
   * @param {number} scroll
   * @returns {[number, number]}
   */
  range(scroll) {
    let first = 0;
    while (first < this.items.length && (this.tops[first + 1] ?? 0) <= scroll) first++;
    let last = first;
    while (last < this.items.length && (this.tops[last] ?? 0) < scroll + this.viewport) last++;
    return [Math.max(0, first - OVER), Math.min(this.items.length, last + OVER)];
  }

  /** @param {MouseEvent} event */
  onHistory(event) {
    const at = event.clientX - this.scroller.getBoundingClientRect().left;
    const { x = 0, width = 0 } = this.columns?.history ?? {};
    return width > 0 && at >= x - 4 && at <= x + width + 6;
  }

  /** @param {MouseEvent} event */
  share(event) {
    const { x = 0, width = 1 } = this.columns?.history ?? {};
    return Math.min(1, Math.max(0, (event.clientX - this.scroller.getBoundingClientRect().left - x) / width));
  }

  /** @param {MouseEvent} event */
  click(event) {
    const made = /** @type {HTMLElement} */ (event.target).closest(".item");
    if (!made || this.onHistory(event)) return;
    this.focus(Number(/** @type {HTMLElement} */ (made).dataset.index), false);
    this.act(this.active);
  }

  /** Open a layer, or fold a group. @param {number} i */
  act(i) {
    const item = this.items[i];
    if (!item) return;
    if (item.node.row) this.hands.open(item.node.row);
    else this.fold(item, !item.open);
  }

  /**
   * @param {Item} item
   * @param {boolean} open
   */
  fold(item, open) {
    item.open = open;
    this.tree.dispatchEvent(new CustomEvent("fold", { detail: item, bubbles: true }));
  }

  /**
   * Make an item the active one, and show it.
   * @param {number} i
   * @param {boolean} [focus]
   */
  focus(i, focus = true) {
    if (this.items.length === 0) return;
    this.touched = true;
    this.active = Math.min(this.items.length - 1, Math.max(0, i));
    const top = this.tops[this.active] ?? 0;
    const end = this.tops[this.active + 1] ?? top;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (end > this.scroller.scrollTop + this.viewport) this.scroller.scrollTop = end - this.viewport;
    this.hands.marked(this.items[this.active]?.node.row ?? null);
    if (this.scene) this.draw(this.scene);
    if (focus) this.elements.made.get(this.items[this.active]?.node.key ?? "")?.focus({ preventScroll: true });
  }

  /** Show a row, wherever it is. @param {Row} row @param {boolean} [focus] */
  show(row, focus = false) {
    const i = this.items.findIndex((item) => item.node.row === row);
    if (i < 0) return;
    this.scroller.scrollTop = (this.tops[i] ?? 0) - this.viewport / 2;
    this.focus(i, focus);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const item = this.items[this.active];
    if (!item) return;
    const page = Math.max(1, Math.floor(this.viewport / 24) - 1);
    const parent = item.node.parent ? this.items.findIndex((each) => each.node === item.node.parent) : -1;
    /** @type {Map<string, () => void>} */
    const actions = new Map([
      ["ArrowDown", () => this.focus(this.active + 1)],
      ["ArrowUp", () => this.focus(this.active - 1)],
      ["PageDown", () => this.focus(this.active + page)],
      ["PageUp", () => this.focus(this.active - page)],
      ["Home", () => this.focus(0)],
      ["End", () => this.focus(this.items.length - 1)],
      ["ArrowRight", () => (item.node.row ? undefined : item.open ? this.focus(this.active + 1) : this.fold(item, true))],
      ["ArrowLeft", () => (!item.node.row && item.open ? this.fold(item, false) : parent >= 0 && !this.flat ? this.focus(parent) : undefined)],
      ["Enter", () => this.act(this.active)],
    ]);
    const action = actions.get(event.key);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  /** What is on the screen, as a picture. @returns {import("gammabeta/pictures.js").Picture | null} */
  picture() {
    const { scene, columns: placed } = this;
    if (!scene || !placed) return null;
    return { width: this.width, height: this.viewport, paint: (context) => void this.paintItems(context, scene, placed, true) };
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   * @param {import("gammabeta/columns.js").Columns} placed
   * @param {boolean} named whether to write the names, which are elements on the page
   */
  paintItems(context, scene, placed, named) {
    const { strips } = this;
    const front = strips.front;
    /** @type {Map<Row, Finding[]>} */
    const found = new Map();
    for (const each of findings(scene.store, front, scene.clock.frame(front, scene.moment.frame))) {
      const known = found.get(each.row);
      if (known) known.push(each);
      else found.set(each.row, [each]);
    }
    const paint = { scene, columns: placed, front, measure: strips.measure, found };
    const scroll = this.scroller.scrollTop;
    const [first, last] = this.range(scroll);
    for (let i = first; i < last; i++) {
      const item = this.items[i];
      const y = (this.tops[i] ?? 0) - scroll;
      const height = (this.tops[i + 1] ?? 0) - (this.tops[i] ?? 0);
      if (!item || y > this.viewport || y + height < 0) continue;
      if (item.node.row) paintRow(context, paint, item.node.row, y, height);
      else if (!item.open) paintGroup(context, paint, item.node.rows, y, height);
      if (!item.open) this.histories.paint(context, scene, item, y, height, strips, placed);
      if (!named) continue;
      context.font = "12px system-ui, sans-serif";
      context.textAlign = "left";
      context.textBaseline = "middle";
      context.fillStyle = scene.palette.ink;
      context.fillText(this.flat ? item.node.row?.title ?? "" : item.node.label, 16 + (this.flat ? 0 : 14 * (item.level - 1)), y + height / 2);
    }
    return paint;
  }
}
