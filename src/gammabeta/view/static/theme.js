// Colors for the canvases, read from the style sheet so that there is one palette.

/**
 * @typedef {object} Palette
 * @property {string} ink
 * @property {string} muted
 * @property {string} line
 * @property {string} zone
 * @property {string} paper
 * @property {string} bad
 * @property {string} warm
 * @property {string} cool
 * @property {string} plum
 * @property {string} olive
 */
/** @typedef {"warm" | "cool" | "plum" | "olive"} Hue */

const NAMES = /** @type {const} */ (["ink", "muted", "line", "zone", "paper", "bad", "warm", "cool", "plum", "olive"]);

/**
 * An arm's hue: warm for the first arm that does not normalize, cool for the first one that does.
 * @param {import("gammabeta/run.js").Run} run
 * @param {number} arm
 * @returns {Hue}
 */
export function hueOf(run, arm) {
  if (!later(run, arm)) return run.normalizes(arm) ? "cool" : "warm";
  const place = run.arms.filter((other) => later(run, other.id)).findIndex((other) => other.id === arm);
  return place % 2 === 0 ? "plum" : "olive";
}

/**
 * Whether an earlier arm of the same kind already has the hue of the kind.
 * @param {import("gammabeta/run.js").Run} run
 * @param {number} arm
 */
function later(run, arm) {
  return run.arms.find((other) => run.normalizes(other.id) === run.normalizes(arm))?.id !== arm;
}

/** A second carrier of which arm a curve is. @type {Record<Hue, number[]>} */
export const DASHES = { warm: [5, 2], cool: [], plum: [1, 2], olive: [8, 3, 2, 3] };

/** @returns {Palette} */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  return /** @type {Palette} */ (
    Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]))
  );
}

const KEY = "gammabeta-theme";

export function storedTheme() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // a file opened from disk may have no storage
  }
}

/** @param {string} theme "light", "dark" or "" for the system's */
export function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // the choice is not stored
  }
}

/** Whether the page is dark now. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
