// The elements of the rows that are on the screen: what the keyboard and a screen reader find there.

import { element, icon } from "gammabeta/dom.js";
import { worst } from "gammabeta/findings.js";
import { valueOf } from "gammabeta/measures.js";
import { words } from "gammabeta/rowpaint.js";

/** @typedef {import("gammabeta/tree.js").Item} Item */
/** @typedef {import("gammabeta/findings.js").Finding} Finding */
/** What is listed, see table.js. @typedef {{items: Item[], tops: number[], active: number, touched: boolean, flat: boolean}} Listed */

export class Items {
  /** @param {HTMLElement} tree */
  constructor(tree) {
    this.tree = tree;
    /** Item key → its element. @type {Map<string, HTMLElement>} */
    this.made = new Map();
    /** @type {Listed} */
    this.table = { items: [], tops: [], active: 0, touched: false, flat: false };
  }

  clear() {
    for (const each of this.made.values()) each.remove();
    this.made.clear();
  }

  /**
   * Make the elements of the items on the screen; drop the others.
   * @param {Listed} table
   * @param {number} first
   * @param {number} last
   * @param {import("gammabeta/rowpaint.js").Paint} paint
   */
  populate(table, first, last, paint) {
    this.table = table;
    /** @type {Set<string>} */
    const keep = new Set();
    for (let i = first; i < last; i++) this.place(i, keep, paint);
    if (table.active < first || table.active >= last) this.place(table.active, keep, paint);
    for (const [key, made] of this.made) {
      if (keep.has(key)) continue;
      made.remove();
      this.made.delete(key);
    }
  }

  /**
   * @param {number} i
   * @param {Set<string>} keep
   * @param {import("gammabeta/rowpaint.js").Paint} paint
   */
  place(i, keep, paint) {
    const { table } = this;
    const item = table.items[i];
    if (!item) return;
    const { node, level, place, of, open } = item;
    keep.add(node.key);
    let made = this.made.get(node.key);
    const height = (table.tops[i + 1] ?? 0) - (table.tops[i] ?? 0);
    if (!made) {
      const name = table.flat ? node.row?.title ?? node.key : node.label;
      const twist = element("span", { class: "twist", "aria-hidden": "true" }, ...(node.row ? [] : [icon("fold")]));
      const words = element("span", { class: "name" }, element("span", { class: "label" }, name));
      if (!node.row) words.append(element("small", {}, String(node.rows.length)));
      const note = element("small", { class: "worst" });
      made = element(
        "div",
        { role: "treeitem", class: node.row ? "item leaf" : "item group", title: node.row?.title ?? node.key },
        twist,
        element("span", { class: "words" }, words, note),
      );
      for (const [key, value] of [["level", level], ["posinset", place], ["setsize", of]]) made.setAttribute(`aria-${key}`, String(value));
      if (!node.row) made.setAttribute("aria-expanded", String(open));
      made.style.setProperty("--level", String(table.flat ? 0 : level - 1));
      made.style.top = `${table.tops[i] ?? 0}px`;
      made.style.height = `${height}px`;
      made.dataset.index = String(i);
      this.made.set(node.key, made);
      this.tree.append(made);
    }
    made.tabIndex = i === table.active ? 0 : -1;
    made.setAttribute("aria-selected", String(table.touched && i === table.active));
    const rows = node.row ? [node.row] : node.rows;
    const odd = worst(rows.flatMap((row) => paint.found.get(row) ?? []).filter((each) => each.badness >= 0.95)) ?? null;
    made.classList.toggle("odd", odd !== null && odd.badness >= 2 && !open);
    const last = made.lastElementChild?.lastElementChild;
    const text = !node.row && odd && height >= 40 && !open ? odd.row.title.replace(`${node.key}.`, "") + ` ${sortWords(odd, paint)}` : "";
    if (last && last.textContent !== text) last.textContent = text;
    const spoken = this.spoken(item, odd, paint);
    if (made.getAttribute("aria-label") !== spoken) made.setAttribute("aria-label", spoken);
  }

  /**
   * @param {Item} item
   * @param {Finding | null} odd
   * @param {import("gammabeta/rowpaint.js").Paint} paint
   */
  spoken({ node }, odd, { scene, front, measure: what }) {
    if (!node.row) return `${node.key}, ${node.rows.length} layers${odd ? `, ${odd.row.title} stands out` : ""}`;
    if (scene.moment.blend > 0) return this.made.get(node.key)?.getAttribute("aria-label") ?? node.row.title;
    const value = valueOf(scene.store, node.row, front, scene.clock.frame(front, scene.moment.frame), what);
    return `${node.row.title}: ${what.label} ${Number.isNaN(value) ? "not measured" : words(value, what)}${odd ? ", stands out" : ""}`;
  }
}

/**
 * What stands out in a folded group.
 * @param {Finding} odd
 * @param {import("gammabeta/rowpaint.js").Paint} paint
 */
function sortWords(odd, { measure: what }) {
  if (odd.sort === "nonfinite") return "not finite";
  if (odd.sort === "dead") return `${words(odd.value, { ...what, scale: "share" })} dead`;
  if (odd.sort === "saturated") return `${words(odd.value, { ...what, scale: "share" })} saturated`;
  const name = odd.sort === "spread" || odd.sort === "drift" ? "σ" : odd.sort === "update" ? "update" : "gradient";
  return `${name} ${words(odd.value, { ...what, scale: "log" })}`;
}
