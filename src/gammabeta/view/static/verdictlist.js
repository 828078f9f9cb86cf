// The list of the doctor's verdicts: each leads to its layer and step, and unfolds its evidence.

import { breakable, element, setText } from "gammabeta/dom.js";
import { grouped, place, sentence, SEVERITIES, symbol } from "gammabeta/verdicts.js";

/** @typedef {import("gammabeta/run.js").Verdict} Verdict */

export class VerdictList {
  /**
   * @param {import("gammabeta/run.js").Run} run
   * @param {(verdict: Verdict) => void} show
   */
  constructor(run, show) {
    this.run = run;
    this.show = show;
    this.heading = element("h2", {});
    this.list = element("ol", {});
    this.element = element("section", { class: "verdicts", "aria-label": "Findings of the doctor", hidden: "" }, this.heading, this.list);
    /** @type {Map<string, HTMLLIElement>} */
    this.items = new Map();
    this.built = -1;
  }

  /** List what is new. */
  build() {
    const { run } = this;
    if (run.verdicts.length === this.built) return;
    this.built = run.verdicts.length;
    const verdicts = grouped(run);
    this.element.hidden = verdicts.length === 0;
    const counts = SEVERITIES.map((severity) => [verdicts.filter((each) => each.severity === severity).length, severity]).filter(([count]) => count);
    setText(this.heading, `Findings: ${counts.map(([count, severity]) => `${count} ${severity}${severity !== "info" && Number(count) > 1 ? "s" : ""}`).join(", ")}`);
    const open = new Set([...this.items].filter(([, item]) => item.querySelector("details")?.open).map(([key]) => key));
    this.items.clear();
    for (const verdict of verdicts) this.items.set(keyOf(verdict), this.item(verdict, open.has(keyOf(verdict))));
    this.list.replaceChildren(...this.items.values());
  }

  /**
   * @param {Verdict} verdict
   * @param {boolean} open
   */
  item(verdict, open) {
    const { run } = this;
    const arm = run.arms.length > 1 ? ` · ${run.arms.find((each) => each.id === verdict.arm)?.name ?? ""}` : "";
    const go = element("button", { type: "button", class: "link", title: "Go to this layer and step" }, ...breakable(place(verdict)));
    go.addEventListener("click", () => this.show(verdict));
    const line = element(
      "p",
      {},
      symbol(verdict.severity),
      element("span", { class: "severity" }, verdict.severity),
      element("b", {}, verdict.code),
      element("span", {}, verdict.name),
      go,
      element("span", { class: "when" }, `step ${verdict.step}${arm}`),
    );
    const cost = verdict.cost ? ` Cost: ${sentence(verdict.cost)}` : "";
    const item = element("li", { class: verdict.severity, tabindex: "-1" }, line, element("p", { class: "cause" }, sentence(verdict.cause) + cost));
    const numbers = element("dl", { class: "evidence" });
    for (const [name, value] of verdict.numbers) numbers.append(element("dt", {}, name), element("dd", {}, value));
    if (verdict.layers.length > 1) numbers.append(element("dt", {}, "layers"), element("dd", {}, verdict.layers.map((each) => each || "the model").join(", ")));
    if (verdict.code) numbers.append(element("dt", {}, "about the rule"), element("dd", {}, `gammabeta doctor --explain ${verdict.code}`));
    const parts = [...(numbers.childElementCount ? [numbers] : []), ...(verdict.fix ? [element("pre", { tabindex: "0", "aria-label": "Fix" }, verdict.fix)] : [])];
    if (parts.length) {
      const details = element("details", open ? { open: "" } : {}, element("summary", {}, "evidence and fix"), ...parts);
      item.append(details);
    }
    return item;
  }

  /** Scroll to a verdict and point it out. @param {Verdict} verdict */
  point(verdict) {
    for (const [key, item] of this.items) {
      item.classList.toggle("pointed", key === keyOf(verdict));
      if (key === keyOf(verdict)) this.list.scrollTo({ top: item.offsetTop - this.list.offsetTop - 4 });
    }
  }
}

/** @param {Verdict} verdict */
function keyOf({ arm, step, code, severity, cause }) {
  return JSON.stringify([arm, step, code, severity, cause]);
}
