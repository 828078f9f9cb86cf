// The residual stream by depth: the RMS of every sum, now and at the first frame.

import { Chart } from "gammabeta/chart.js";
import { number } from "gammabeta/format.js";
import { axes, clipped } from "gammabeta/lines.js";
import { measure, valueOf } from "gammabeta/measures.js";
import { plain } from "gammabeta/trend.js";

/** @typedef {import("gammabeta/cell.js").Scene} Scene */

const RMS = measure("rms");

export class Profile extends Chart {
  /** @param {import("gammabeta/run.js").Run} run */
  constructor(run) {
    super("residual stream: RMS by depth", 104, null);
    this.run = run;
    this.left = 52;
  }

  get rows() {
    return this.run.rows.all.filter((row) => row.kind === "residual");
  }

  /** @param {Scene} scene */
  state({ moment }) {
    return moment.frame;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Scene} scene
   */
  paint(context, scene) {
    const { run, store, clock, moment, palette, hues } = scene;
    const { rows, frame } = this;
    const lines = run.shown.flatMap((arm) => {
      const first = run.armFrames.get(arm.id)?.[0] ?? -1;
      return [
        { arm, now: false, values: rows.map((row) => valueOf(store, row, arm.id, first, RMS)) },
        { arm, now: true, values: rows.map((row) => valueOf(store, row, arm.id, clock.frame(arm.id, moment.frame), RMS)) },
      ];
    });
    const all = lines.flatMap(({ values }) => values).filter((value) => value > 0);
    const low = Math.min(...all);
    const high = Math.max(...all);
    const scale = plain({ label: this.name, scale: "log" }, low, high, high / low > 8);
    axes(context, palette, /** @type {any} */ (scale), frame);
    const step = (frame.right - frame.left) / Math.max(1, rows.length - 1);
    for (const { arm, now, values } of lines) {
      context.beginPath();
      let drawn = false;
      for (const [i, value] of values.entries()) {
        if (!(value > 0)) {
          drawn = false;
          continue;
        }
        const y = frame.top + frame.height * (1 - scale.share(value));
        if (drawn) context.lineTo(frame.left + i * step, y);
        else context.moveTo(frame.left + i * step, y);
        drawn = true;
      }
      context.strokeStyle = now ? hues.colour(arm.id) : palette.muted;
      context.setLineDash(now ? hues.dash(arm.id) : [1, 3]);
      context.lineWidth = now ? 1.8 : 1;
      context.stroke();
      context.setLineDash([]);
    }
    context.fillStyle = palette.muted;
    context.textAlign = "left";
    context.fillText(clipped(context, rows[0]?.name ?? "", 90), frame.left, this.tall - 7);
    context.textAlign = "right";
    context.fillText(clipped(context, rows[rows.length - 1]?.name ?? "", 90), frame.right, this.tall - 7);
  }

  /**
   * @param {MouseEvent} event
   * @param {Scene} scene
   */
  hover(event, { run, store, clock, moment }) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - this.left) / (box.width - this.left - this.right);
    const row = this.rows[Math.round(Math.min(1, Math.max(0, share)) * (this.rows.length - 1))];
    if (!row) return null;
    return { title: `${row.title} · RMS`, rows: run.shown.map((arm) => /** @type {[string, string]} */ ([run.shown.length > 1 ? arm.name : "now", number(valueOf(store, row, arm.id, clock.frame(arm.id, moment.frame), RMS))])) };
  }
}
