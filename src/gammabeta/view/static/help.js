// The dialog that explains the keys and how to read the picture.

import { element, icon } from "gammabeta/dom.js";

/** @type {[string, string][]} */
const KEYS = [
  ["Space", "play or pause"],
  ["← →  , .", "one frame back, one on"],
  ["Shift + ← →", "ten frames"],
  ["Home, End", "first frame, last frame"],
  ["1 … 9", "open a layer; Esc closes it"],
  ["J, K", "in an open layer: the next one, the one before"],
  ["S", "slow motion: watch each frame pass through its stages"],
  ["G", "pin this frame as an outline; again to let go"],
  ["Tab, Enter", "go to a finding's mark or name; show its step and layer"],
  ["T", "light or dark"],
  ["?", "these keys"],
];
/** @type {[string, string][]} */
const MORE = [
  ["/", "search layers by name, or by a pattern such as layer3.*.conv2"],
  ["↓ ↑", "go through the layers"],
  ["→ ←", "in the tree: unfold, fold"],
  ["Enter", "open the layer, or unfold the group"],
];

/** @param {boolean} few whether the page has no tree */
export function helpDialog(few) {
  const list = element("dl");
  for (const [keys, words] of few ? KEYS : [...KEYS.slice(0, -1), ...MORE, ...KEYS.slice(-1)]) {
    list.append(element("dt", {}, element("kbd", {}, keys)), element("dd", {}, words));
  }
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
      few
        ? "In slow motion z slides and scales to x̂, is stretched by γ and shifted by β, and passes through the " +
            "nonlinearity; every stage is a recorded histogram. Why this helps training is contested: the paper " +
            "that introduced batch normalization named internal covariate shift; later work measured a smoother loss landscape."
        : "The map has a row for every layer and a column for every recorded step; drag in it to move the playhead, click to find the layer below. " +
            "A folded group shows its layers in small. Red marks what stands out: a σ far from that of the layers like it, dead units, " +
            "a gradient that is lost, values that are not finite.",
    ),
  );
  shut.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  return dialog;
}
