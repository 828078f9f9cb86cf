// A drawing context that writes SVG: what the panels draw on a canvas, as a file that scales.

/**
 * What `save` keeps.
 * @typedef {{fillStyle: string, strokeStyle: string, lineWidth: number, lineJoin: string, globalAlpha: number, dash: number[], clip: string} & Text} State
 */
/** @typedef {{font: string, textAlign: string, textBaseline: string}} Text */

const ANCHOR = new Map([["left", "start"], ["start", "start"], ["center", "middle"], ["right", "end"], ["end", "end"]]);

/** The part of CanvasRenderingContext2D that the panels use. */
export class SvgContext {
  /**
   * @param {number} width
   * @param {number} height
   */
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.measuring = /** @type {CanvasRenderingContext2D} */ (document.createElement("canvas").getContext("2d"));
    this.root = make("svg", { xmlns: SPACE, width, height, viewBox: `0 0 ${width} ${height}` });
    /** @type {State[]} */
    this.saved = [];
    this.path = "";
    this.clips = 0;
    this.fillStyle = "#000";
    this.strokeStyle = "#000";
    this.lineWidth = 1;
    this.globalAlpha = 1;
    this.font = "10px sans-serif";
    this.textAlign = "start";
    this.textBaseline = "alphabetic";
    this.lineJoin = "miter";
    this.imageSmoothingEnabled = true;
    /** @type {number[]} */
    this.dash = [];
    this.clipping = "";
  }

  /** The context as the panels know it. */
  get context() {
    return /** @type {CanvasRenderingContext2D} */ (/** @type {unknown} */ (this));
  }

  save() {
    const { fillStyle, strokeStyle, lineWidth, globalAlpha, font, textAlign, textBaseline, lineJoin, dash, clipping } = this;
    this.saved.push({ fillStyle, strokeStyle, lineWidth, globalAlpha, font, textAlign, textBaseline, lineJoin, dash, clip: clipping });
  }

  restore() {
    const state = this.saved.pop();
    if (!state) return;
    const { clip, ...rest } = state;
    Object.assign(this, rest);
    this.clipping = clip;
  }

  /** @param {number[]} dash */
  setLineDash(dash) {
    this.dash = dash;
  }

  beginPath() {
    this.path = "";
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  moveTo(x, y) {
    this.path += `M${this.at(x, y)}`;
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  lineTo(x, y) {
    this.path += `${this.path ? "L" : "M"}${this.at(x, y)}`;
  }

  closePath() {
    this.path += "Z";
  }

  /**
   * A whole circle, which is all that is drawn.
   * @param {number} x
   * @param {number} y
   * @param {number} r
   */
  arc(x, y, r) {
    this.path += `M${this.at(x - r, y)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} w
   * @param {number} h
   */
  rect(x, y, w, h) {
    this.path += `M${this.at(x, y)}h${short(w)}v${short(h)}h${short(-w)}Z`;
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} w
   * @param {number} h
   */
  roundRect(x, y, w, h) {
    this.rect(x, y, w, h);
  }

  clip() {
    const id = `clip${++this.clips}`;
    const clip = make("clipPath", { id });
    clip.append(make("path", { d: this.path }));
    this.root.append(clip);
    this.clipping = `url(#${id})`;
  }

  fill() {
    this.add("path", { d: this.path, fill: this.fillStyle, "fill-opacity": this.globalAlpha });
  }

  stroke() {
    this.add("path", { d: this.path, fill: "none", ...this.pen() });
  }

  pen() {
    return {
      stroke: this.strokeStyle,
      "stroke-width": this.lineWidth,
      "stroke-opacity": this.globalAlpha,
      "stroke-linejoin": this.lineJoin,
      ...(this.dash.length ? { "stroke-dasharray": this.dash.join(" ") } : {}),
    };
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  fillRect(x, y, width, height) {
    this.add("rect", { x: short(x), y: short(y), width: short(width), height: short(height), fill: this.fillStyle, "fill-opacity": this.globalAlpha });
  }

  /**
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  strokeRect(x, y, width, height) {
    this.path = "";
    this.rect(x, y, width, height);
    this.stroke();
  }

  clearRect() {
    // the ground is drawn once, below everything
  }

  /** @param {string} text */
  measureText(text) {
    this.measuring.font = this.font;
    return this.measuring.measureText(text);
  }

  /**
   * @param {string} text
   * @param {number} x
   * @param {number} y
   */
  fillText(text, x, y) {
    this.write(text, x, y, { fill: this.fillStyle, "fill-opacity": this.globalAlpha });
  }

  /**
   * @param {string} text
   * @param {number} x
   * @param {number} y
   */
  strokeText(text, x, y) {
    this.write(text, x, y, { fill: "none", ...this.pen() });
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   */
  drawImage(canvas, x, y, width, height) {
    this.add("image", { href: canvas.toDataURL(), x: x, y: y, width, height, preserveAspectRatio: "none", "image-rendering": "pixelated" });
  }

  /**
   * @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {Record<string, string | number>} paint
   */
  write(text, x, y, paint) {
    const parts = /^(?:(\d+) )?([\d.]+)px (.*)$/.exec(this.font);
    const size = Number(parts?.[2] ?? 10);
    const shift = this.textBaseline === "middle" ? 0.34 * size : this.textBaseline === "top" ? 0.8 * size : 0;
    const font = { "font-size": size, "font-weight": parts?.[1] ?? "400", "font-family": parts?.[3] ?? "sans-serif" };
    const made = this.add("text", { x: short(x), y: short(y + shift), ...font, "text-anchor": ANCHOR.get(this.textAlign) ?? "start", ...paint });
    made.textContent = text;
  }

  /**
   * @param {string} name
   * @param {Record<string, string | number>} attributes
   */
  add(name, attributes) {
    const made = make(name, this.clipping ? { ...attributes, "clip-path": this.clipping } : attributes);
    this.root.append(made);
    return made;
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  at(x, y) {
    return `${short(x)} ${short(y)}`;
  }

  toString() {
    return new XMLSerializer().serializeToString(this.root);
  }
}

const SPACE = "http://www.w3.org/2000/svg";

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 */
function make(name, attributes) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) if (key !== "xmlns") made.setAttribute(key, String(value));
  return made;
}

/** @param {number} x */
function short(x) {
  return Math.round(x * 100) / 100;
}
