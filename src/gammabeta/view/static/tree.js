// The module tree of the rows, which folds and unfolds.

import { KIND_NAMES } from "gammabeta/rows.js";

/** @typedef {import("gammabeta/rows.js").Row} Row */
/**
 * A group of modules, or a row.
 * @typedef {object} Node
 * @property {string} key
 * @property {string} label
 * @property {Node | null} parent
 * @property {Node[]} children in call order; none for a row
 * @property {Row | null} row
 * @property {Row[]} rows all rows below it
 */
/** What is listed. @typedef {{node: Node, level: number, place: number, of: number, open: boolean}} Item */

/** The tree opens until it shows about as many rows. */
const SHOWN = 6;
/** A run with fewer rows opens whole. */
const WHOLE = 12;

export class Tree {
  /** @param {Row[]} rows */
  constructor(rows) {
    this.root = node("", "", null);
    /** @type {Map<string, Node>} */
    this.nodes = new Map();
    /** @type {Map<Row, Node>} */
    this.leaves = new Map();
    /** Keys of the groups that are open. @type {Set<string>} */
    this.opened = new Set();
    for (const row of rows) this.insert(row);
    this.root.children = this.root.children.map((child) => this.joined(child));
    if (rows.length <= WHOLE) this.openAll();
    else this.openFirst();
  }

  /** @param {Row} row */
  insert(row) {
    const parts = row.name.split(".");
    const own = row.title === row.name ? parts.pop() ?? "" : KIND_NAMES[row.kind];
    let at = this.root;
    at.rows.push(row);
    let path = "";
    for (const part of parts) {
      path = path ? `${path}.${part}` : part;
      let next = this.nodes.get(path);
      if (!next) {
        next = node(path, labelled(part, at), at);
        this.nodes.set(path, next);
        at.children.push(next);
      }
      next.rows.push(row);
      at = next;
    }
    const twin = at.children.filter((child) => child.row && child.row.name === row.name && child.row.kind === row.kind).length;
    const label = labelled(own, at);
    const leaf = node(`${path}/${own}/${row.index}`, twin ? `${label} (${twin + 1})` : label, at);
    leaf.row = row;
    leaf.rows = [row];
    at.children.push(leaf);
    this.leaves.set(row, leaf);
  }

  /**
   * Join a group that has one child with it.
   * @param {Node} group
   * @returns {Node}
   */
  joined(group) {
    group.children = group.children.map((child) => this.joined(child));
    const only = group.children[0];
    if (group.children.length !== 1 || !only) return group;
    const joint = only.row && only.row.title !== only.row.name ? " " : ".";
    if (!only.label.startsWith(`${group.label}.`)) only.label = `${group.label}${joint}${only.label}`;
    only.parent = group.parent;
    return only;
  }

  openAll() {
    for (const each of this.nodes.values()) this.opened.add(each.key);
  }

  /** Open what holds most of the rows, until there is something to see. */
  openFirst() {
    for (;;) {
      const items = this.items();
      const largest = items.filter((item) => !item.node.row && !item.open).sort((a, b) => b.node.rows.length - a.node.rows.length)[0];
      const shown = items.filter((item) => item.node.row || !item.open).length;
      if (!largest || shown >= SHOWN || (shown > 2 && largest.node.rows.length < 0.6 * this.root.rows.length)) return;
      this.opened.add(largest.node.key);
    }
  }

  /**
   * @param {Node} group
   * @param {boolean} open
   */
  set(group, open) {
    if (group.row) return;
    if (open) this.opened.add(group.key);
    else this.opened.delete(group.key);
  }

  /**
   * Open everything around a row.
   * @param {Row} row
   */
  reveal(row) {
    for (let at = this.leaves.get(row)?.parent; at; at = at.parent) this.opened.add(at.key);
  }

  /** The groups that are seen before anybody unfolds one. */
  tops() {
    const { opened } = this;
    this.opened = new Set();
    this.openFirst();
    const items = this.items();
    this.opened = opened;
    return items.filter((item) => !item.open).map((item) => item.node);
  }

  /** Whether a group is folded. */
  get folded() {
    return this.items().some((item) => !item.node.row && !item.open);
  }

  foldAll() {
    this.opened.clear();
    this.openFirst();
  }

  /** What is to be seen, in order. @returns {Item[]} */
  items() {
    /** @type {Item[]} */
    const items = [];
    /**
     * @param {Node} group
     * @param {number} level
     */
    const list = (group, level) => {
      for (const [i, child] of group.children.entries()) {
        const open = !child.row && this.opened.has(child.key);
        items.push({ node: child, level, place: i + 1, of: group.children.length, open });
        if (open) list(child, level + 1);
      }
    };
    list(this.root, 1);
    return items;
  }
}

/**
 * A number says little by itself: h.0, not 0.
 * @param {string} part
 * @param {Node} group
 */
function labelled(part, group) {
  return /^\d/.test(part) && group.label ? `${group.label}.${part}` : part;
}

/**
 * @param {string} key
 * @param {string} label
 * @param {Node | null} parent
 * @returns {Node}
 */
function node(key, label, parent) {
  return { key, label, parent, children: [], row: null, rows: [] };
}
