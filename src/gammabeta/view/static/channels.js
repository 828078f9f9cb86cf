// A parameter or a comparison by channel: γ, β, and how far the running statistics are from the batch's.

import { Chart } from "gammabeta/chart.js";
import { number } from "gammabeta/format.js";
import { axes } from "gammabeta/lines.js";
import { plain } from "gammabeta/trend.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {import("gammabeta/run.js").Stage} Stage */

/** @type {[Stage, string][]} */
export const BY_CHANNEL = [
  ["gamma", "γ by channel"],
  ["beta", "β by channel"],
  ["mean_shift", "(batch mean − running mean) ÷ running σ"],
  ["var_ratio", "ln(batch variance ÷ running variance)"],
];

export class Channels extends Chart {
  /**
   * @param {import("gammabeta/rows.js").Row} row
   * @param {Stage} stage
   * @param {string} label
   */
  constructor(row, stage, label) {
    super(label, 118, null);
    this.row = row;
    this.stage = stage;
    this.canvas.setAttribute("aria-label", `${label} of ${row.title}`);
  }

  /** @param {Scene} scene */
  values({ run, store, clock, moment }) {
    return run.shown.flatMap((arm) => {
      const probe = this.row.probe(arm.id, this.stage)?.id;
      const values = probe === undefined ? null : store.channels(probe, clock.step(moment.frame, arm.id) ?? 0);
      return values?.length ? [{ arm, values }] : [];
    });
  }

  /** @param {Scene} scene */
  state(scene) {
    const values = this.values(scene);
    return `${scene.moment.frame} ${values.length}`;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   */
  paint(context, scene) {
    const { palette, hues } = scene;
    const { frame } = this;
    const lists = this.values(scene);
    const rest = this.stage === "gamma" ? 1 : 0;
    const all = lists.flatMap(({ values }) => values).filter((value) => Number.isFinite(value));
    const far = Math.max(this.stage === "gamma" ? 0.5 : 0.1, ...all.map((value) => Math.abs(value - rest)));
    const scale = plain({ label: this.name, scale: "signed" }, rest - far, rest + far, false);
    axes(context, palette, /** @type {any} */ (scale), frame);
    const base = frame.top + frame.height * (1 - scale.share(rest));
    for (const { arm, values } of lists) {
      context.fillStyle = hues.colour(arm.id);
      context.globalAlpha = lists.length > 1 ? 0.55 : 0.8;
      const each = (frame.right - frame.left) / values.length;
      values.forEach((value, i) => {
        if (!Number.isFinite(value)) return;
        const y = frame.top + frame.height * (1 - scale.share(value));
        context.fillRect(frame.left + i * each, Math.min(y, base), Math.max(0.7, each - (each > 4 ? 1 : 0)), Math.max(1, Math.abs(y - base)));
      });
      context.globalAlpha = 1;
    }
    if (!lists.length) {
      context.fillStyle = palette.muted;
      context.textAlign = "center";
      context.fillText("not recorded at this step", (frame.left + frame.right) / 2, frame.top + frame.height / 2 - 8);
    }
  }

  /**
   * @param {MouseEvent} event
   * @param {Scene} scene
   */
  hover(event, scene) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - this.left) / (box.width - this.left - this.right);
    /** @type {[string, string][]} */
    const rows = [];
    for (const { arm, values } of this.values(scene)) {
      const i = Math.floor(share * values.length);
      const value = values[i];
      if (value !== undefined) rows.push([scene.run.shown.length > 1 ? arm.name : `channel ${i}`, number(value)]);
    }
    return rows.length ? { title: this.name, rows } : null;
  }
}
