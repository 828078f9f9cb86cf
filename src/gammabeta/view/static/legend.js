// The arms by name and hue; the one that is chosen is in front.

import { element } from "gammabeta/dom.js";
import { shortNames } from "gammabeta/names.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */

export class Legend {
  /** @param {(arm: number) => void} choose */
  constructor(choose) {
    this.choose = choose;
    this.element = element("div", { class: "legend", role: "group", "aria-label": "Arm in front", hidden: "" });
    this.built = "";
  }

  /**
   * @param {Scene} scene
   * @param {number} front
   * @param {boolean} few
   */
  build({ run, hues, palette }, front, few) {
    const arms = few ? run.arms : run.shown.length ? run.shown : run.arms;
    this.element.hidden = arms.length < (few ? 3 : 2);
    const key = JSON.stringify([arms, front, palette.paper, few]);
    if (key === this.built || this.element.hidden) return;
    this.built = key;
    const focused = this.element.contains(document.activeElement);
    const short = shortNames(run.arms);
    this.element.replaceChildren(
      ...arms.map((arm) => {
        const made = element(
          "button",
          { type: "button", class: `chip ${hues.name(arm.id)}`, title: arm.name, "aria-pressed": String(arm.id === front) },
          swatch(hues.colour(arm.id), hues.dash(arm.id)),
          element("span", {}, short.get(arm.id) ?? arm.name),
        );
        made.addEventListener("click", () => this.choose(arm.id));
        return made;
      }),
    );
    if (focused) /** @type {HTMLElement | null} */ (this.element.querySelector("[aria-pressed=true]"))?.focus();
  }
}

/**
 * @param {string} colour
 * @param {number[]} dash
 */
function swatch(colour, dash) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 8");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", "M0 4h20");
  line.setAttribute("stroke", colour);
  line.setAttribute("stroke-width", "2.4");
  if (dash.length) line.setAttribute("stroke-dasharray", dash.join(" "));
  svg.append(line);
  return svg;
}
