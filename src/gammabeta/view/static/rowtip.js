// The numbers under the pointer in the table of rows.

import { number, percent } from "gammabeta/format.js";
import { measure, valueOf } from "gammabeta/measures.js";
import { words } from "gammabeta/rowpaint.js";
import { signalWords } from "gammabeta/tip.js";

/** @typedef {import("gammabeta/table.js").Table} Table */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

/**
 * @param {Table} table
 * @param {MouseEvent} event
 * @param {Scene} scene
 * @returns {import("gammabeta/tip.js").Words | null}
 */
export function rowWords(table, event, scene) {
  const made = /** @type {HTMLElement} */ (event.target).closest(".item");
  const item = table.items[Number(/** @type {HTMLElement | null} */ (made)?.dataset.index ?? -1)];
  const placed = table.columns;
  if (!item || !placed) return null;
  const { store, clock, moment, run } = scene;
  const { front, measure: what } = table.strips;
  const x = event.clientX - table.scroller.getBoundingClientRect().left;
  const row = item.node.row;
  if (table.onHistory(event) && row) {
    const tick = table.strips.time.tickOf(table.share(event));
    const value = valueOf(store, row, front, clock.frame(front, tick), what);
    return { title: `${row.title} · ${table.strips.words(tick).replace(/ of .*/, "")}`, rows: [[what.label, Number.isNaN(value) ? "–" : words(value, what)]] };
  }
  const when = table.strips.words(moment.frame).replace(/ of .*/, "");
  const column = placed.stages.find((each) => x >= each.x && x <= each.x + each.width);
  if (row && column) {
    const stage = row.kind !== "layer" && column === placed.stages[0] ? row.kind : column.stage;
    const probe = row.probe(front, stage)?.id;
    return probe === undefined ? null : signalWords(store, row, stage, when, clock.frame(front, moment.frame), probe);
  }
  if (!row && placed.stages[0] && column) {
    // A member of a folded group.
    const members = item.node.rows.filter((each) => each.kind === "layer");
    const list = members.length ? members : item.node.rows;
    const last = placed.stages[placed.stages.length - 1];
    const wide = last ? last.x + last.width - placed.stages[0].x : 1;
    const each = Math.min(56, wide / list.length);
    const member = list[Math.floor((x - placed.stages[0].x) / each)];
    if (!member) return null;
    const value = valueOf(store, member, front, clock.frame(front, moment.frame), what);
    return { title: `${member.title} · ${when}`, rows: [[what.label, Number.isNaN(value) ? "–" : words(value, what)]] };
  }
  if (row && x > placed.name && placed.numbers.length) {
    /** @type {[string, string][]} */
    const rows = [];
    for (const { key, label } of placed.numbers) {
      const each = key === what.key ? what : measure(key);
      for (const arm of run.shown) {
        const value = valueOf(store, row, arm.id, clock.frame(arm.id, moment.frame), each);
        if (!Number.isNaN(value)) rows.push([run.shown.length > 1 ? `${label} ${arm.name}` : label, each.scale === "share" ? percent(value) : number(value)]);
      }
    }
    return { title: `${row.title} · ${when}`, rows };
  }
  return null;
}
