// Colours for the canvases, read from the style sheet so that there is one palette.

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
 */

const NAMES = /** @type {const} */ (["ink", "muted", "line", "zone", "paper", "bad", "warm", "cool"]);

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
    // not kept, then
  }
}

/** Whether the page is dark now. */
export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
