// Build elements. Text is always inserted as text: nothing here parses markup.

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A dotted name that may be broken after its dots. @param {string} name */
export function breakable(name) {
  return name.split(/(?<=\.)/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));
}

/**
 * @param {string} value
 * @param {string} text
 */
export function option(value, text) {
  return element("option", { value }, text);
}

/**
 * @param {string} kind
 * @param {string} name for those who cannot see it; its text if empty
 * @param {Node | string} content
 */
export function button(kind, name, content) {
  const made = element("button", { type: "button", class: kind }, content);
  if (name) {
    made.setAttribute("aria-label", name);
    made.title = name;
  }
  return made;
}

/**
 * @param {HTMLElement} target
 * @param {string} text
 */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** @type {Record<string, string>} */
const PATHS = {
  play: "M5 3l9 5-9 5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  first: "M3 3h2v10H3zM14 3v10L6 8z",
  last: "M11 3h2v10h-2zM2 3v10l8-5z",
  theme: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1zm0 2v10A5 5 0 0 1 8 3z",
  save: "M7 2h2v6h3l-4 4-4-4h3zM2 13h12v1.6H2z",
  more: "M3 6.6a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8zm5 0a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8zm5 0a1.4 1.4 0 1 0 0 2.8 1.4 1.4 0 0 0 0-2.8z",
  fold: "M4 6l4 4 4-4z",
  up: "M8 4l5 6-1.2 1L8 6.4 4.2 11 3 10z",
  down: "M8 12L3 6l1.2-1L8 9.6 11.8 5 13 6z",
  close: "M3 4.2L4.2 3 8 6.8 11.8 3 13 4.2 9.2 8l3.8 3.8-1.2 1.2L8 9.2 4.2 13 3 11.8 6.8 8z",
};

/** @param {string} name */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name] ?? "");
  svg.append(path);
  return svg;
}

/**
 * Fit a canvas to its box at the screen's resolution; returns its context in CSS pixels.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
export function fit(canvas, width, height) {
  const scale = Math.min(3, window.devicePixelRatio || 1);
  const w = Math.max(1, Math.round(width * scale));
  const h = Math.max(1, Math.round(height * scale));
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}
