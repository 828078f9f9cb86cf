// The doctor's verdicts on the scrubber: buttons in a lane above the curves.

import { element, setText } from "gammabeta/dom.js";
import { grouped, place, rank, symbol } from "gammabeta/verdicts.js";

/** @typedef {import("gammabeta/run.js").Verdict} Verdict */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */
/** @typedef {{x: number, verdicts: Verdict[]}} Mark */

/** Marks that are nearer to each other, in pixels, are one. */
const APART = 18;
/** The same for a mark with a number beside it. */
const APART_NUMBERED = 28;
/** Findings of a mark that are described. */
const MOST = 6;

export class VerdictMarks {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {(verdicts: Verdict[]) => void} show
   */
  constructor(run, show) {
    this.run = run;
    this.show = show;
    this.element = element("div", { class: "verdictmarks", role: "group", "aria-label": "Findings by step" });
    /** @type {Map<Element, Mark>} */
    this.marks = new Map();
    this.key = "";
  }

  /**
   * @param {Scene} scene
   * @param {import("gammabeta/timeline.js").Timeline} time
   */
  draw({ clock }, time) {
    /** @type {Mark[]} */
    const marks = [];
    for (const verdict of grouped(this.run)) {
      const x = Math.min(time.end, Math.max(time.left, time.x(clock.tickOfStep(verdict.step, verdict.arm))));
      const near = marks.find((each) => Math.abs(each.x - x) < (each.verdicts.length > 1 ? APART_NUMBERED : APART));
      if (near) near.verdicts.push(verdict);
      else marks.push({ x, verdicts: [verdict] });
    }
    const key = JSON.stringify(marks.map(({ x, verdicts }) => [Math.round(x), verdicts.map(name)]));
    if (key === this.key) return;
    this.key = key;
    const had = [...this.marks.keys()].indexOf(/** @type {Element} */ (document.activeElement));
    this.marks.clear();
    for (const mark of marks) {
      const worst = mark.verdicts.reduce((a, b) => (rank(b) < rank(a) ? b : a));
      const made = element("button", { type: "button", class: `verdictmark ${worst.severity}`, "aria-label": mark.verdicts.map(name).join("; ") }, symbol(worst.severity));
      made.style.left = `${mark.x}px`;
      if (mark.verdicts.length > 1) {
        const count = element("span", { class: "howmany", "aria-hidden": "true" });
        setText(count, String(mark.verdicts.length));
        made.append(count);
      }
      made.addEventListener("click", () => this.show(mark.verdicts));
      this.marks.set(made, mark);
    }
    this.element.replaceChildren(...this.marks.keys());
    if (had >= 0) /** @type {HTMLElement | undefined} */ ([...this.marks.keys()][had])?.focus();
  }

  /**
   * What a mark says under the pointer or with the focus.
   * @param {Element} target
   * @returns {import("gammabeta/tip.js").Words | null}
   */
  words(target) {
    const mark = this.marks.get(/** @type {Element} */ (target.closest(".verdictmark")));
    if (!mark) return null;
    const some = [...mark.verdicts].sort((a, b) => rank(a) - rank(b) || a.step - b.step);
    const steps = mark.verdicts.map((each) => each.step);
    const [from, to] = [Math.min(...steps), Math.max(...steps)];
    const when = from === to ? `step ${from}` : `steps ${from} to ${to}`;
    const title = `${some.length === 1 ? some[0]?.severity : `${some.length} findings`} · ${when}`;
    /** @type {[string, string][]} */
    const rows = some.slice(0, MOST).map((each) => [some.length > 1 ? `${each.severity} ${each.code}` : each.code, `${place(each)}: ${each.cause}`]);
    if (some.length > MOST) rows.push(["", `and ${some.length - MOST} more`]);
    return { title, prose: true, rows };
  }
}

/** @param {Verdict} verdict */
function name(verdict) {
  return `${verdict.severity} ${verdict.code} at step ${verdict.step}, ${place(verdict)}: ${verdict.cause}`;
}
