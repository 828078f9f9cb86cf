// The keyboard, and the dialog that explains it.

import { element, icon } from "gammabeta/dom.js";

/** @typedef {import("gammabeta/player.js").Player} Player */
/** @typedef {{player: Player, open: (layer: number) => void, close: () => void, pin: () => void, slow: () => void, help: () => void, depth: () => number}} Hands */

/** @type {[string, string][]} */
const KEYS = [
  ["Space", "play or pause"],
  ["← →", "one frame back, one on"],
  ["Shift + ← →", "ten frames"],
  ["Home, End", "first frame, last frame"],
  ["1 … 9", "open a layer; Esc closes it"],
  ["S", "slow motion: watch each frame pass through its stages"],
  ["G", "pin this frame as an outline; again to let go"],
  ["?", "these keys"],
];

/** @param {Hands} hands */
export function listen(hands) {
  const { player } = hands;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    const onButton = target.closest("button, a, input, select, textarea");
    if (event.key === " " && onButton) return; // Space presses the focused button
    const stride = event.shiftKey ? 10 : 1;
    /** @type {Record<string, () => void>} */
    const actions = {
      " ": () => player.toggle(),
      ArrowLeft: () => player.step(-stride),
      ArrowRight: () => player.step(stride),
      Home: () => player.seek(0),
      End: () => player.seek(Infinity),
      PageUp: () => player.step(-10),
      PageDown: () => player.step(10),
      Escape: hands.close,
      s: hands.slow,
      g: hands.pin,
      "?": hands.help,
    };
    const paging = event.key.startsWith("Page") && !target.closest("[role=slider]");
    const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
    const action = digit && digit <= hands.depth() ? () => hands.open(digit) : actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || paging) return;
    event.preventDefault();
    action();
  });
}

export function helpDialog() {
  const list = element("dl");
  for (const [keys, words] of KEYS) list.append(element("dt", {}, element("kbd", {}, keys)), element("dd", {}, words));
  const shut = element("button", { type: "button", class: "icon", "aria-label": "Close help" }, icon("close"));
  const dialog = element(
    "dialog",
    { class: "help", "aria-label": "Keys and reading the picture" },
    element("div", { class: "row" }, element("h2", {}, "Keys"), shut),
    list,
    element("h2", {}, "Reading the picture"),
    element(
      "p",
      {},
      "Each cell is the distribution of one signal over a mini-batch, on one axis that never changes: " +
        "if a shape moves, the signal has moved. Below it, the tick marks the mean and the bar ± 1 standard deviation; " +
        "the grey trail shows the ten frames before. In shaded zones the activation is saturated; the percentage is the share of values in them. " +
        "A pillar is the share of values that are exactly 0. All shapes are drawn to the same height.",
    ),
    element(
      "p",
      {},
      "In slow motion z slides and scales to x̂, is stretched by γ and shifted by β, and passes through the " +
        "nonlinearity; every stage is a recorded histogram. Why this helps training is contested: the paper " +
        "that introduced batch normalization named internal covariate shift; later work measured a smoother loss landscape.",
    ),
  );
  shut.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  return dialog;
}
