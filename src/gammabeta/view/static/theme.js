// Colors for the canvases, read from the style sheet so that there is one palette.

/**
 * @typedef {object} Palette
 * @property {string} ink
 * @property {string} muted
 * @property {string} line
 * @property {string} zone
 * @property {string} paper
 * @property {string} bad
 * @property {string} warn
 * @property {Record<Hue, string>} hues
 */
/** @typedef {"warm" | "cool" | "plum" | "olive" | "indigo" | "rose" | "brown" | "slate"} Hue */

const NAMES = /** @type {const} */ (["ink", "muted", "line", "zone", "paper", "bad", "warn"]);
const HUES = /** @type {Hue[]} */ (["warm", "cool", "plum", "olive", "indigo", "rose", "brown", "slate"]);

/** A second carrier of which arm a curve is. @type {Record<Hue, number[]>} */
const DASHES = { warm: [5, 2], cool: [], plum: [1, 2], olive: [8, 3, 2, 3], indigo: [3, 3], rose: [10, 3], brown: [6, 2, 1, 2, 1, 2], slate: [2, 5] };

/** The hue of each arm: warm for the first that does not normalize, cool for the first that does. */
export class Hues {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {Palette} palette
   */
  constructor(run, palette) {
    this.palette = palette;
    /** @type {Map<number, Hue>} */
    this.byArm = new Map();
    const both = new Set(run.arms.map((arm) => run.rows.normalizing.has(arm.id))).size > 1;
    /** @type {Hue[]} */
    const free = [...HUES.slice(2), ...(both ? [] : HUES.slice(0, 2))];
    /** @type {Set<Hue>} */
    const taken = new Set();
    for (const arm of run.arms) {
      const own = run.rows.normalizing.has(arm.id) ? "cool" : "warm";
      while (free[0] && taken.has(free[0])) free.shift();
      const hue = taken.has(own) ? free.shift() ?? HUES[this.byArm.size % HUES.length] ?? own : own;
      taken.add(hue);
      this.byArm.set(arm.id, hue);
    }
  }

  /** @param {number} arm */
  name(arm) {
    return this.byArm.get(arm) ?? "cool";
  }

  /** @param {number} arm */
  colour(arm) {
    return this.palette.hues[this.name(arm)];
  }

  /** @param {number} arm */
  dash(arm) {
    return this.byArm.size > 1 ? DASHES[this.name(arm)] : [];
  }
}

/** @returns {Palette} */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  /** @param {readonly string[]} names */
  const read = (names) => Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  return /** @type {Palette} */ (/** @type {unknown} */ ({ ...read(NAMES), hues: read(HUES) }));
}

/**
 * A colour of the style sheet as red, green, blue.
 * @param {string} colour "#rrggbb"
 * @returns {[number, number, number]}
 */
export function rgb(colour) {
  const value = parseInt(colour.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
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
