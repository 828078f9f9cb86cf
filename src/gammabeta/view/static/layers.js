// The layers of a real model: the tree or a list of what was searched for, filtered and sorted.

import { button, element, option, setText } from "gammabeta/dom.js";
import { findings, SORTS } from "gammabeta/findings.js";
import { matcher } from "gammabeta/match.js";
import { measure, valueOf } from "gammabeta/measures.js";
import { pictures } from "gammabeta/pictures.js";
import { Table } from "gammabeta/table.js";
import { Tree } from "gammabeta/tree.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/findings.js").Sort} Sort */
/** @typedef {import("gammabeta/tree.js").Item} Item */

export class Layers {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {import("gammabeta/strips.js").Strips} strips
   * @param {{open: (row: Row) => void, seek: (tick: number) => void, changed: () => void, measured: () => void}} hands
   */
  constructor(run, strips, hands) {
    this.run = run;
    this.strips = strips;
    this.changed = hands.changed;
    this.tree = new Tree(run.rows.all);
    this.rows = run.rows;
    this.query = "";
    /** @type {Sort | ""} */
    this.filter = "";
    this.order = "call";
    this.listed = "";
    /** @type {Scene | null} */
    this.scene = null;
    this.search = element("input", { type: "search", class: "search", placeholder: "Search, such as layer3.*.conv2", "aria-label": "Search layers by name or pattern", autocomplete: "off", spellcheck: "false" });
    this.chips = element("div", { class: "chips", role: "group", "aria-label": "Show only" });
    this.orders = element("select", { class: "measure", "aria-label": "Order of the layers" });
    this.all = button("plain", "", "unfold all");
    this.count = element("span", { class: "count", role: "status" });
    this.menu = pictures("the layers", () => this.table.picture());
    this.bar = element("div", { class: "toolbar" }, this.search, this.chips, element("span", { class: "space" }), this.count, this.orders, this.all, this.menu);
    this.table = new Table(run, strips, {
      open: hands.open,
      changed: hands.changed,
      marked: (row) => {
        strips.marked = row;
        strips.key = "";
        hands.changed();
      },
      sort: (key) => {
        strips.measure = measure(key);
        strips.select.value = key;
        this.order = this.order === "down" ? "up" : "down";
        this.relist();
        hands.measured();
      },
      seek: (share) => hands.seek(strips.time.tickOf(share)),
    });
    this.element = element("section", { class: "layers", "aria-label": "Layers" }, this.bar, this.table.element);
    this.search.addEventListener("input", () => {
      this.query = this.search.value;
      this.relist();
    });
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        this.search.value = this.query = "";
        this.relist();
        this.search.blur();
      } else if (event.key === "ArrowDown" || event.key === "Enter") this.table.focus(0);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.orders.addEventListener("change", () => {
      this.order = this.orders.value;
      this.relist();
    });
    this.all.addEventListener("click", () => {
      if (this.tree.folded) this.tree.openAll();
      else this.tree.foldAll();
      this.relist();
    });
    this.table.tree.addEventListener("fold", (event) => {
      const { node, open } = /** @type {CustomEvent<Item>} */ (event).detail;
      this.tree.set(node, open);
      const focused = this.table.tree.contains(document.activeElement);
      this.relist();
      this.table.focus(this.table.active, focused);
    });
    /** @type {Map<Sort, HTMLButtonElement>} */
    this.buttons = new Map();
    for (const [sort, words] of SORTS) {
      const chip = button("chip", "", words);
      chip.hidden = true;
      chip.addEventListener("click", () => {
        this.filter = this.filter === sort ? "" : sort;
        this.relist();
      });
      this.buttons.set(sort, chip);
      this.chips.append(chip);
    }
  }

  /** Take new rows. */
  build() {
    if (this.rows === this.run.rows) return;
    const { opened } = this.tree;
    const first = this.rows.length === 0;
    this.rows = this.run.rows;
    this.tree = new Tree(this.rows.all);
    if (!first) this.tree.opened = opened;
    this.listed = "";
  }

  /** List anew, and draw. */
  relist() {
    this.listed = "";
    if (this.scene) this.measure(this.scene);
    this.changed();
  }

  /** @param {Scene} scene */
  measure(scene) {
    this.scene = scene;
    this.groups();
    this.list(scene);
    this.table.measure(scene);
  }

  /** Names of groups for the map: the tree's, as it is folded at first. */
  groups() {
    const rows = this.strips.rowsOf(this.strips.front);
    const places = new Map(rows.map((row, i) => [row, i]));
    /** @type {{label: string, from: number, to: number}[]} */
    const groups = [];
    const first = this.tree.tops();
    for (const node of first) {
      const at = node.rows.map((row) => places.get(row) ?? -1).filter((place) => place >= 0);
      if (at.length) groups.push({ label: node.label, from: Math.min(...at), to: Math.max(...at) + 1 });
    }
    this.strips.groups = groups;
  }

  /** Whether the rows are listed one by one, not as a tree. */
  get flat() {
    return this.query.trim() !== "" || this.filter !== "" || this.order !== "call";
  }

  /** @param {Scene} scene */
  list(scene) {
    const { strips, run } = this;
    const { clock, moment, store } = scene;
    const front = strips.front;
    const frame = clock.frame(front, moment.frame);
    const label = strips.measure.label;
    if (this.orders.dataset.label !== label) {
      this.orders.dataset.label = label;
      this.orders.replaceChildren(option("call", "in call order"), option("down", `largest ${label} first`), option("up", `smallest ${label} first`), option("drift", "most drift of σ first"));
    }
    this.orders.value = this.order;
    const found = findings(store, front, frame);
    /** @type {Map<Sort, Set<Row>>} */
    const bySort = new Map(SORTS.map(([sort]) => [sort, new Set()]));
    for (const each of found) bySort.get(each.sort)?.add(each.row);
    for (const [sort, words] of SORTS) {
      const chip = this.buttons.get(sort);
      if (!chip) continue;
      const many = bySort.get(sort)?.size ?? 0;
      setText(chip, `${words} ${many}`);
      const hidden = many === 0 && this.filter !== sort;
      if (chip.hidden !== hidden) chip.hidden = hidden;
      chip.setAttribute("aria-pressed", String(this.filter === sort));
    }
    const moving = this.filter !== "" || this.order !== "call";
    const key = [this.query, this.filter, this.order, moving ? `${front} ${frame} ${store.version} ${strips.measure.key}` : "", this.rows.length].join();
    if (key === this.listed) return;
    this.listed = key;
    const before = this.table.scroller.scrollTop;
    if (!this.flat) {
      this.table.list(this.tree.items(), false);
      this.all.hidden = this.run.rows.length === this.tree.root.children.length;
      setText(this.all, this.tree.folded ? "unfold all" : "fold");
    } else {
      const matches = matcher(this.query);
      const only = this.filter === "" ? null : bySort.get(this.filter);
      let rows = run.rows.all.filter((row) => (!matches || matches(row.title) || matches(row.name)) && (!only || only.has(row)));
      if (this.order !== "call") rows = this.sorted(rows, scene, frame);
      this.table.list(
        rows.map((row, i) => ({ node: /** @type {import("gammabeta/tree.js").Node} */ (this.tree.leaves.get(row)), level: 1, place: i + 1, of: rows.length, open: false })),
        true,
      );
      this.all.hidden = true;
    }
    const total = run.rows.length;
    const shown = this.table.items.filter((item) => item.node.row).length;
    setText(this.count, this.flat ? `${shown} of ${total}` : `${total} layers`);
    const { empty } = this.table;
    empty.hidden = this.table.items.length > 0;
    setText(empty, this.query ? `No layer is called ${this.query}.` : "No layer stands out in this way at this step.");
    if (moving) this.table.measure(scene);
    this.table.scroller.scrollTop = before;
  }

  /**
   * @param {Row[]} rows
   * @param {Scene} scene
   * @param {number} frame
   */
  sorted(rows, { store, run }, frame) {
    const { front, measure: chosen } = this.strips;
    const first = run.armFrames.get(front)?.[0] ?? 0;
    const std = measure("std");
    const values = new Map(
      rows.map((row) => {
        if (this.order !== "drift") return [row, valueOf(store, row, front, frame, chosen)];
        return [row, Math.abs(Math.log(valueOf(store, row, front, frame, std) / valueOf(store, row, front, first, std)))];
      }),
    );
    const sign = this.order === "up" ? 1 : -1;
    /** @param {Row} row */
    const of = (row) => values.get(row) ?? NaN;
    return [...rows].sort((a, b) => {
      if (Number.isNaN(of(a)) || Number.isNaN(of(b))) return Number(Number.isNaN(of(a))) - Number(Number.isNaN(of(b)));
      return sign * (of(a) - of(b)) || a.index - b.index;
    });
  }

  /** @param {Scene} scene */
  draw(scene) {
    this.scene = scene;
    this.list(scene);
    this.table.draw(scene);
  }

  /** Scroll to a row, or to the folded group that has it. @param {Row} row */
  point(row) {
    const { items, tops, viewport, scroller } = this.table;
    const i = items.findIndex(({ node, open }) => node.row === row || (!node.row && !open && node.rows.includes(row)));
    if ((tops[i + 1] ?? 0) > viewport) scroller.scrollTop = (tops[i] ?? 0) - viewport / 2;
  }

  /** Show a row and point at it. @param {Row} row @param {boolean} [focus] */
  reveal(row, focus = false) {
    if (!this.table.items.some((item) => item.node.row === row)) {
      this.search.value = this.query = "";
      this.filter = "";
      this.tree.reveal(row);
      this.relist();
    }
    this.table.show(row, focus);
  }
}
