// One sentence about the most remarkable numbers at the playhead, which names the module.

import { findings, firstBroken, remarkable, worst } from "gammabeta/findings.js";
import { number, percent, times } from "gammabeta/format.js";
import { kinOf } from "gammabeta/kin.js";
import { measure, valueOf } from "gammabeta/measures.js";
import { shortNames } from "gammabeta/names.js";

/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/run.js").Arm} Arm */
/** @typedef {import("gammabeta/store.js").Store} Store */
/** @typedef {import("gammabeta/findings.js").Finding} Finding */
/** Text, and rows to be named in it. @typedef {(string | Row)[]} Words */

/**
 * @param {Store} store
 * @param {import("gammabeta/clock.js").Clock} clock
 * @param {number} tick
 * @returns {Words}
 */
export function caption(store, clock, tick) {
  const arms = store.run.shown;
  const many = arms.length > 1;
  const states = arms.map((arm) => state(store, arm, clock.frame(arm.id, tick), clock.step(tick, arm.id) ?? 0, many));
  const first = states.reduce((a, b) => (b.badness > a.badness ? b : a), states[0] ?? { badness: 0, words: [], short: [] });
  if (first.badness < 0.9 && arms.length > 1 && store.run.rows.length > 8) {
    const apart = difference(store, clock, tick);
    if (apart.length) return apart;
  }
  const others = arms.length === 2 ? states.filter((each) => each !== first && each.badness < 1) : [];
  return [...first.words, ...others.flatMap((each) => (each.short.length ? [" ", ...each.short] : []))];
}

/**
 * What is most remarkable in an arm: `words` if the caption is about it, `short` beside another arm.
 * @param {Store} store
 * @param {Arm} arm
 * @param {number} frame
 * @param {number} step
 * @param {boolean} many whether to name the arm
 * @returns {{badness: number, words: Words, short: Words}}
 */
function state(store, arm, frame, step, many) {
  const name = shortNames(store.run.arms).get(arm.id) ?? arm.name;
  const of = many ? `, ${name}` : "";
  const found = findings(store, arm.id, frame);
  const most = worst(found);
  const short = quiet(store, arm, frame, many);
  const diverged = store.run.diverged(arm.id, step);
  if (most?.sort === "nonfinite" || diverged !== undefined) {
    const first = firstBroken(store, arm.id, frame);
    const loss = diverged === undefined ? "" : `the loss is not finite since step ${diverged}`;
    if (first) return { badness: 9, words: [first.row, `${of} is the first with values that are not finite, at step ${first.step}${loss ? `; ${loss}` : ""}.`], short };
    return { badness: 9, words: [`${capital(loss)}${of}; no layer had a value that is not finite.`], short };
  }
  const fading = fall(store, arm, frame);
  if (!most || most.badness < 0.9) {
    if (fading.length) return { badness: 0.95, words: capitalized([...fading, many ? ` (${name}).` : "."]), short };
    return { badness: 0.1, words: short, short };
  }
  const tail = (most.sort === "saturated" || most.sort === "dead") && fading.length ? ["; ", ...fading, "."] : ["."];
  return { badness: most.badness, words: [most.row, `${of}: `, ...sentence(most), ...tail], short };
}

/**
 * @param {Finding} finding
 * @returns {Words}
 */
function sentence({ sort, value, beside = NaN, other, slowly }) {
  if (sort === "dead") return [`${percent(value)} of its units are dead`];
  if (sort === "saturated") return [`${percent(value)} saturated`];
  if (sort === "spread") return [`σ is ${number(value)}, ${times(value / beside)} that of the layers like it (${number(beside)})`];
  if (sort === "drift") return [`σ went from ${number(beside)} in the first frame to ${number(value)}`];
  if (sort === "exploded" && other) return [`the gradient explodes here: ${number(value)}, ${times(value / beside)} that of `, other, " after it"];
  if (sort === "exploded") return [`its gradient is ${number(value)}, ${times(value / beside)} the median of all layers`];
  if (sort === "update") return [`one update is ${percent(value)} of its weights`];
  if (other && slowly) return [`its gradient is ${number(value)}, ${times(value / beside)} that of `, other];
  if (other) return [`the gradient vanishes here: ${number(value)}, ${times(value / beside)} that of `, other, " after it"];
  return [`its gradient is ${number(value)}, ${times(value / beside)} the median of all layers`];
}

/**
 * How much less gradient reaches the first row than the last, if that is much.
 * @param {Store} store
 * @param {Arm} arm
 * @param {number} frame
 * @returns {Words}
 */
function fall(store, arm, frame) {
  const what = measure("gradient");
  const rows = kinOf(store.run, arm.id).rows.filter((row) => row.kind === "layer");
  const known = rows.filter((row) => valueOf(store, row, arm.id, frame, what) > 0);
  const first = known[0];
  const last = known[known.length - 1];
  if (!first || !last) return [];
  const ratio = valueOf(store, last, arm.id, frame, what) / valueOf(store, first, arm.id, frame, what);
  if (ratio < (rows.length <= 12 ? 10 : 1000)) return [];
  const share = ratio >= 1e6 ? "less than a millionth" : times(1 / ratio);
  return ["the gradient that reaches ", first, ` is ${share.replace(/ of$/, "")} of the one at `, last];
}

/**
 * The row in which the arms differ most, if they do.
 * @param {Store} store
 * @param {import("gammabeta/clock.js").Clock} clock
 * @param {number} tick
 * @returns {Words}
 */
function difference(store, clock, tick) {
  const what = measure("std");
  const names = shortNames(store.run.arms);
  let far = Math.log(1.5);
  /** @type {Words} */
  let words = [];
  for (const row of store.run.rows.all) {
    if (row.kind !== "layer") continue;
    const values = store.run.shown
      .map((arm) => ({ arm, value: valueOf(store, row, arm.id, clock.frame(arm.id, tick), what) }))
      .filter(({ value }) => value > 0)
      .sort((a, b) => a.value - b.value);
    const [least, most] = [values[0], values[values.length - 1]];
    if (!least || !most || Math.log(most.value / least.value) <= far) continue;
    far = Math.log(most.value / least.value);
    words = [row, ` differs most: its σ is ${number(most.value)} in ${names.get(most.arm.id)} and ${number(least.value)} in ${names.get(least.arm.id)}.`];
  }
  return words;
}

/**
 * The usual: the most saturated row, or the least and the largest σ.
 * @param {Store} store
 * @param {Arm} arm
 * @param {number} frame
 * @param {boolean} many
 * @returns {Words}
 */
function quiet(store, arm, frame, many) {
  const name = many ? `${capital(shortNames(store.run.arms).get(arm.id) ?? arm.name)}: ` : "";
  const { rows } = kinOf(store.run, arm.id);
  /** @param {string} key */
  const extremes = (key) => {
    const what = measure(key);
    let least = null;
    let most = null;
    for (const row of rows) {
      if (row.kind !== "layer") continue;
      const value = valueOf(store, row, arm.id, frame, what);
      if (Number.isNaN(value)) continue;
      if (!least || value < least.value) least = { row, value };
      if (!most || value > most.value) most = { row, value };
    }
    return { least, most };
  };
  const saturated = extremes("saturated").most;
  if (many && saturated && remarkable(store.run, saturated.row, arm.id) < 0.9) {
    return [`${name}${percent(saturated.value)} saturated at most, in `, saturated.row, "."];
  }
  const { least, most } = extremes(store.run.rows.normalizing.has(arm.id) && rows.length <= 8 ? "enters" : "std");
  if (!least || !most) return [];
  const prefix = name || "Nothing stands out: ";
  if (least.row === most.row) return [`${prefix}σ is ${number(most.value)} in `, most.row, "."];
  return [`${prefix}σ between ${number(least.value)} (`, least.row, `) and ${number(most.value)} (`, most.row, ")."];
}

/**
 * With a capital, if it is words and not a name such as lr=0.1.
 * @param {string} text
 */
function capital(text) {
  if (/[^\p{L}\s;.,0-9]/u.test(text)) return text;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** @param {Words} words */
function capitalized([first, ...rest]) {
  return /** @type {Words} */ ([typeof first === "string" ? capital(first) : first, ...rest]);
}
