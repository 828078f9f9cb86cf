// A panel as a picture: the small menu that copies or downloads it.

import { element, icon } from "gammabeta/dom.js";
import { SvgContext } from "gammabeta/svg.js";

/** @typedef {{width: number, height: number, paint: (context: CanvasRenderingContext2D) => void}} Picture */

const SCALE = 2;

/**
 * @param {string} name of the panel
 * @param {() => Picture | null} picture
 */
export function pictures(name, picture) {
  const toggle = element("button", { type: "button", class: "icon more", "aria-label": `Picture of ${name}`, title: `Picture of ${name}`, "aria-haspopup": "menu", "aria-expanded": "false" }, icon("more"));
  const menu = element("div", { class: "menu", role: "menu", "aria-label": `Picture of ${name}`, hidden: "" });
  const wrap = element("div", { class: "pictures" }, toggle, menu);
  /** @param {boolean} open */
  const show = (open) => {
    menu.hidden = !open;
    toggle.setAttribute("aria-expanded", String(open));
    if (open) /** @type {HTMLElement | null} */ (menu.firstElementChild)?.focus();
  };
  /** @type {[string, (panel: Picture) => Promise<void> | void][]} */
  const actions = [
    ["Copy PNG", copy],
    ["Download PNG", async (panel) => save(await png(panel), `${name}.png`)],
    ["Download SVG", (panel) => save(svg(panel), `${name}.svg`)],
  ];
  for (const [words, act] of actions) {
    const item = element("button", { type: "button", role: "menuitem", tabindex: "-1" }, words);
    item.addEventListener("click", async () => {
      const panel = picture();
      try {
        if (panel) await act(panel);
        show(false);
        toggle.focus();
      } catch {
        item.textContent = `${words}: the browser refused`;
      }
    });
    menu.append(item);
  }
  toggle.addEventListener("click", () => show(menu.hidden));
  wrap.addEventListener("keydown", (event) => {
    if (menu.hidden) return;
    const items = /** @type {HTMLElement[]} */ ([...menu.children]);
    const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const move = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (move) items[(at + move + items.length) % items.length]?.focus();
    else if (event.key === "Escape") {
      show(false);
      toggle.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  });
  wrap.addEventListener("focusout", (event) => {
    if (!wrap.contains(/** @type {globalThis.Node | null} */ (event.relatedTarget))) show(false);
  });
  return wrap;
}

/** @param {Picture} picture */
async function copy(picture) {
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png(picture) })]);
}

/**
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
function png({ width, height, paint }) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * SCALE);
  canvas.height = Math.round(height * SCALE);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.scale(SCALE, SCALE);
  paint(context);
  context.setTransform(SCALE, 0, 0, SCALE, 0, 0);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = ground();
  context.fillRect(0, 0, width, height);
  return new Promise((done, failed) => canvas.toBlob((blob) => (blob ? done(blob) : failed(new Error("too large")))));
}

/** @param {Picture} picture */
function svg({ width, height, paint }) {
  const drawing = new SvgContext(width, height);
  drawing.fillStyle = ground();
  drawing.fillRect(0, 0, width, height);
  paint(drawing.context);
  return new Blob([drawing.toString()], { type: "image/svg+xml" });
}

function ground() {
  return getComputedStyle(document.documentElement).getPropertyValue("--paper").trim();
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function save(blob, name) {
  const link = element("a", { download: name.replace(/[^\p{L}\p{N}._ -]/gu, "-") });
  link.href = URL.createObjectURL(blob);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
