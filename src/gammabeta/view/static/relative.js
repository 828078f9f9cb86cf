// How a row's σ compares with the median of the rows like it: those whose names differ in numbers only.

/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/store.js").Store} Store */

/** Fewer rows of a role say nothing: they are compared with all rows of their kind. */
const FEW = 3;

/** @type {WeakMap<Row[], number[][]>} */
const known = new WeakMap();

/**
 * The places of the rows that are like each other, group by group.
 * @param {Row[]} rows
 */
export function alike(rows) {
  let groups = known.get(rows);
  if (groups) return groups;
  /** @type {Map<string, number[]>} */
  const roles = new Map();
  rows.forEach((row, i) => {
    const role = `${row.kind}:${row.name.replace(/\d+/g, "#")}`;
    const list = roles.get(role);
    if (list) list.push(i);
    else roles.set(role, [i]);
  });
  /** @type {Map<string, number[]>} */
  const rest = new Map();
  groups = [];
  for (const list of roles.values()) {
    if (list.length >= FEW) groups.push(list);
    else {
      const kind = rows[list[0] ?? 0]?.kind ?? "";
      rest.set(kind, [...(rest.get(kind) ?? []), ...list]);
    }
  }
  groups.push(...rest.values());
  known.set(rows, groups);
  return groups;
}

/**
 * Replace logarithms by their distance from the median of their group.
 * @param {Row[]} rows
 * @param {(place: number) => number} value
 * @param {(place: number, distance: number) => void} set
 */
export function compare(rows, value, set) {
  for (const group of alike(rows)) {
    const some = [];
    for (const place of group) {
      const here = value(place);
      if (!Number.isNaN(here)) some.push(here);
    }
    some.sort((a, b) => a - b);
    const middle = some[(some.length - 1) >> 1] ?? NaN;
    for (const place of group) set(place, value(place) - middle);
  }
}

/** What was asked for last. @type {{store: Store, key: string, ratios: Map<Row, number>} | null} */
let last = null;

/**
 * σ of a row as a multiple of the median of the rows like it.
 * @param {Store} store
 * @param {Row} row
 * @param {number} arm
 * @param {number} frame
 * @param {import("gammabeta/measures.js").Measure} what
 */
export function ratioOf(store, row, arm, frame, what) {
  const key = `${arm} ${frame} ${store.version} ${store.run.rows.length}`;
  if (!last || last.store !== store || last.key !== key) {
    const rows = store.run.rows.all.filter((each) => each.arms.has(arm));
    const logs = rows.map((each) => Math.log(store.get(what.field, frame, each.first(arm, what.stages)?.id ?? -1)));
    /** @type {Map<Row, number>} */
    const ratios = new Map();
    compare(rows, (place) => logs[place] ?? NaN, (place, distance) => ratios.set(/** @type {Row} */ (rows[place]), Math.exp(distance)));
    last = { store, key, ratios };
  }
  return last.ratios.get(row) ?? NaN;
}
