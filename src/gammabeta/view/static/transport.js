// The bar at the bottom: playback, the step, and the caption, whose names open their layers.

import { button, element, icon, setText } from "gammabeta/dom.js";
import { duration } from "gammabeta/lines.js";
import { SPEEDS } from "gammabeta/player.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/rows.js").Row} Row */

export class Transport {
  /**
   * @param {import("gammabeta/player.js").Player} player
   * @param {{pin: () => void, axis: () => void, show: (row: Row) => void}} hands
   */
  constructor(player, hands) {
    this.player = player;
    this.hands = hands;
    const first = button("icon", "First frame", icon("first"));
    this.play = button("icon play", "Play", icon("play"));
    const last = button("icon", "Last frame", icon("last"));
    this.speeds = SPEEDS.map((speed) => {
      const made = button("speed", `Speed ${speed} times`, speed === 0.25 ? "¼×" : `${speed}×`);
      made.addEventListener("click", () => player.setSpeed(speed));
      return made;
    });
    this.slow = button("toggle", "", "slow motion");
    this.pin = button("toggle", "", "pin");
    this.pin.title = "Keep this frame as an outline";
    this.axis = button("toggle", "", "by time");
    this.axis.title = "Align by the time since the start, not by the step";
    this.step = element("output", { class: "step" });
    this.words = element("p", { class: "caption" });
    this.told = "";
    this.element = element(
      "section",
      { class: "transport", "aria-label": "Playback" },
      element("div", { class: "group" }, first, this.play, last),
      element("div", { class: "group", role: "group", "aria-label": "Speed" }, ...this.speeds),
      element("div", { class: "group" }, this.slow, this.pin, this.axis),
      this.step,
      this.words,
    );
    first.addEventListener("click", () => player.seek(0));
    last.addEventListener("click", () => player.seek(Infinity));
    this.play.addEventListener("click", () => player.toggle());
    this.slow.addEventListener("click", () => player.setSlow(!player.slow));
    this.pin.addEventListener("click", hands.pin);
    this.axis.addEventListener("click", hands.axis);
  }

  /** @param {Scene} scene */
  draw({ run, clock, moment, pinned }) {
    const { player } = this;
    const now = clock.step(moment.frame);
    const at = clock.at[moment.frame];
    const time = clock.mode === "time" && at !== undefined ? ` · ${duration(at)}` : "";
    setText(this.step, now === undefined ? "" : `step ${now} / ${run.last}${time}`);
    const waiting = player.playing && player.live && player.position >= player.end;
    this.play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
    this.play.classList.toggle("waiting", waiting);
    swap(this.play, player.playing ? "pause" : "play");
    this.slow.setAttribute("aria-pressed", String(player.slow));
    this.pin.setAttribute("aria-pressed", String(pinned !== null));
    this.axis.hidden = !clock.timed || clock.length < 2;
    this.axis.setAttribute("aria-pressed", String(clock.mode === "time"));
    this.speeds.forEach((made, i) => made.setAttribute("aria-pressed", String(player.speed === SPEEDS[i])));
  }

  /** @param {import("gammabeta/caption.js").Words} words */
  tell(words) {
    const text = words.map((part) => (typeof part === "string" ? part : part.title)).join("");
    if (text === this.told) return;
    this.told = text;
    const had = this.words.contains(document.activeElement);
    const parts = words.map((part) => {
      if (typeof part === "string") return part;
      const made = element("button", { type: "button", class: "link" }, part.title);
      made.addEventListener("click", () => this.hands.show(part));
      return made;
    });
    const line = element("span", {}, ...parts);
    this.words.replaceChildren(line);
    if (had) line.querySelector("button")?.focus();
  }
}

/**
 * Show an icon on a button, unless it is already there.
 * @param {HTMLElement} target
 * @param {string} name
 */
function swap(target, name) {
  if (target.dataset.icon === name) return;
  target.dataset.icon = name;
  target.replaceChildren(icon(name));
}
