// The numbers under the pointer.

import { rowWords } from "gammabeta/rowtip.js";
import { signalWords } from "gammabeta/tip.js";

/** @typedef {import("gammabeta/page.js").Page} Page */
/** @typedef {import("gammabeta/tip.js").Tip} Tip */

/**
 * Show the numbers under the pointer, also while the playhead moves.
 * @param {Page} page
 * @param {Tip} tip
 */
export function pointer(page, tip) {
  const { scene, store, clock, player, strips } = page;
  /** @type {PointerEvent | null} */
  let resting = null;
  /** @param {PointerEvent} event */
  const tell = (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const cell = [...page.grid.cells, ...page.detail.cells].find((each) => each.canvas === target);
    const chart = [...page.curves.list, ...page.detail.charts, page.profile].find((each) => each.canvas === target);
    let words = null;
    if (cell) {
      const tick = player.moment.frame;
      words = signalWords(store, cell.row, cell.stage, strips.words(tick).replace(/ of .*/, ""), clock.frame(cell.arm, tick), cell.probe?.id);
    } else if (chart) words = chart.hover(event, scene);
    else if (strips.verdicts.element.contains(target)) words = strips.verdicts.words(target);
    else if (strips.slider.contains(target)) words = strips.hover(event, scene);
    else if (page.layers.table.tree.contains(target)) words = rowWords(page.layers.table, event, scene);
    if (words) tip.show(words, event);
    else tip.hide();
  };
  page.main.addEventListener("pointermove", (event) => {
    resting = event;
    tell(event);
  });
  page.main.addEventListener("pointerleave", () => {
    resting = null;
    tip.hide();
  });
  page.main.addEventListener("focusin", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    const words = target.matches(":focus-visible") ? strips.verdicts.words(target) : null;
    if (!words) return;
    const box = target.getBoundingClientRect();
    tip.show(words, { clientX: box.left, clientY: box.bottom });
  });
  page.main.addEventListener("focusout", () => tip.hide());
  store.listeners.add(() => resting && tell(resting));
  let told = -1;
  player.listeners.add(() => {
    if (resting && told !== player.moment.frame) tell(resting);
    told = player.moment.frame;
  });
}
