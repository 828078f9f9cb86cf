// The chosen statistic of each row over time, beside the row.

import { heat, picture } from "gammabeta/heat.js";
import { tableOf } from "gammabeta/painter.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/tree.js").Item} Item */

export class Histories {
  constructor() {
    /** By item and height. @type {Map<string, HTMLCanvasElement>} */
    this.pictures = new Map();
    this.key = "";
    /** @type {import("gammabeta/heat.js").Heat | undefined} */
    this.heat = undefined;
  }

  /**
   * The chosen statistic of an item over time.
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   * @param {Item} item
   * @param {number} y
   * @param {number} height
   * @param {import("gammabeta/strips.js").Strips} strips
   * @param {import("gammabeta/columns.js").Columns} placed
   */
  paint(context, scene, item, y, height, strips, placed) {
    const { base, front, measure } = strips;
    if (placed.history.width < 1) return;
    const other = base === front ? null : base;
    const rows = strips.rowsOf(front);
    this.heat = heat(scene, rows, front, measure, other, this.heat ?? strips.heats.get(`${front} ${other}`));
    if (!this.heat) return;
    const key = [this.heat.key, scene.palette.paper, placed.history.width, front].join();
    if (key !== this.key || this.pictures.size > 600) {
      this.key = key;
      this.pictures.clear();
    }
    const name = `${item.node.key} ${height}`;
    let made = this.pictures.get(name);
    if (!made) {
      const places = item.node.rows.map((row) => rows.indexOf(row)).filter((place) => place >= 0);
      const from = Math.min(...places);
      const to = Math.max(...places) + 1;
      if (!places.length) return;
      const ticks = strips.time.ticksOf(Math.round(placed.history.width));
      made = picture(this.heat, from, to, Math.min(to - from, height - 4), ticks, tableOf(scene, this.heat, front, other), false);
      this.pictures.set(name, made);
    }
    context.imageSmoothingEnabled = false;
    const inset = height >= 40 ? 5 : 2;
    context.drawImage(made, placed.history.x, y + inset, placed.history.width, height - 2 * inset);
  }
}
