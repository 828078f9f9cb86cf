// The parts of the page, and how they are laid out: few layers in full, or many as a tree.

import { Clock } from "gammabeta/clock.js";
import { Curves } from "gammabeta/curves.js";
import { Detail } from "gammabeta/detail.js";
import { element } from "gammabeta/dom.js";
import { findings, worst } from "gammabeta/findings.js";
import { Grid } from "gammabeta/grid.js";
import { Layers } from "gammabeta/layers.js";
import { Legend } from "gammabeta/legend.js";
import { measure } from "gammabeta/measures.js";
import { Player } from "gammabeta/player.js";
import { Profile } from "gammabeta/profile.js";
import { Strips } from "gammabeta/strips.js";
import { Hues, palette } from "gammabeta/theme.js";
import { Transport } from "gammabeta/transport.js";
import { VerdictList } from "gammabeta/verdictlist.js";
import { rank, rowOf } from "gammabeta/verdicts.js";
import { caption } from "gammabeta/caption.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

const NARROW = "(max-width: 760px)";
/** At most so many rows, and columns of all arms, are shown in full. */
const ROWS = 8;
const COLUMNS = 8;

/** The statistic of the map in which a finding is seen. @type {Map<string, string>} */
const SHOWN_BY = new Map([["spread", "relative"], ["dead", "dead"], ["saturated", "saturated"], ["vanished", "gradient"], ["exploded", "gradient"], ["update", "update"]]);

export class Page {
  /**
   * @param {Run} run
   * @param {import("gammabeta/store.js").Store} store
   */
  constructor(run, store) {
    this.run = run;
    this.store = store;
    this.clock = new Clock(run);
    this.player = new Player(() => this.clock.length);
    const colours = palette();
    /** @type {Scene} */
    this.scene = { run, store, clock: this.clock, moment: this.player.moment, palette: colours, hues: new Hues(run, colours), pinned: null, ghosts: false };
    /** @param {number} tick */
    const seek = (tick) => this.player.seek(tick);
    /** @param {Row} row */
    const open = (row) => this.open(row);
    this.strips = new Strips(run, this.clock, { seek, pick: (row) => this.pick(row), changed: () => this.chosen(), verdicts: (some) => this.judge(some) });
    this.verdicts = new VerdictList(run, (verdict) => this.judge([verdict]));
    this.detail = new Detail(run, this.strips.time, { close: () => this.open(null), move: (by) => void this.move(by), seek });
    this.grid = new Grid(run, open);
    this.layers = new Layers(run, this.strips, { open, seek, changed: () => this.draw(), measured: () => this.measure() });
    this.curves = new Curves(run, this.strips, seek);
    this.profile = new Profile(run);
    this.legend = new Legend((arm) => this.bring(arm));
    this.transport = new Transport(this.player, { pin: () => this.pin(), axis: () => this.axis(), show: (row) => this.pick(row, true) });
    this.empty = element("p", { hidden: "" });
    this.main = element("main", {});
    /** Whether all layers are shown in full. */
    this.few = true;
    this.arranged = "";
    this.told = "";
    /** Whether the map may still choose what it shows. */
    this.undecided = true;
    /** What had the focus when a layer was opened, to give it back. @type {HTMLElement | null} */
    this.opener = null;
    /** Called when something has changed that the address carries. */
    this.remember = () => {};
    this.grid.element.addEventListener("shown", () => this.measure());
  }

  /** Take what has arrived, and lay out anew. */
  build() {
    const { run, strips, scene } = this;
    const arms = run.shown;
    const columns = arms.reduce((sum, arm) => sum + run.rows.stages(arm.id).length, 0);
    const whole = run.rows.all.every((row) => row.kind === "layer");
    this.few = whole && columns <= COLUMNS && arms.every((arm) => run.rows.depth(arm.id) <= ROWS);
    scene.hues = new Hues(run, scene.palette);
    if (!run.arms.some((arm) => arm.id === strips.front)) strips.front = (arms.find((arm) => run.rows.depth(arm.id) === run.rows.length) ?? arms[0] ?? run.arms[0])?.id ?? -1;
    const arranged = `${this.few} ${arms.length > 0}`;
    if (arranged !== this.arranged) {
      this.arranged = arranged;
      this.main.classList.toggle("many", !this.few);
      strips.measure = measure(this.few ? "enters" : "std");
      const { detail, grid, layers, legend, curves, transport, verdicts, empty } = this;
      const rows = this.few ? [grid.element, detail.element, legend.element, strips.element, verdicts.element, curves.element] : [legend.element, strips.element, verdicts.element, layers.element, detail.element, curves.element];
      const note = run.note ? [element("p", { class: "note" }, run.note)] : [];
      this.main.replaceChildren(...note, empty, ...rows, transport.element);
    }
    strips.build(this.few);
    this.curves.build();
    this.verdicts.build();
    if (!this.few && run.rows.all.filter((row) => row.kind === "residual").length > 1) {
      if (!this.profile.element.isConnected) this.curves.element.prepend(this.profile.element);
      this.curves.element.hidden = false;
    }
    if (this.few) this.grid.build(scene);
    else this.layers.build();
    this.detail.front = strips.front;
    this.empty.hidden = arms.length > 0 && run.length > 0;
    this.empty.className = this.empty.hidden ? "" : "message";
    if (!this.empty.hidden) {
      this.empty.textContent = run.running
        ? "No frame yet: waiting for the first step."
        : run.last > 0
          ? "No layer was seen in this run, only its scalars: layers are recorded when the watched model is called in training mode."
          : "This run ended before its first frame: call the watched model in training mode, and signal.step() in every step.";
    }
    this.measure();
  }

  measure() {
    const { scene, few, detail } = this;
    scene.ghosts = (few ? matchMedia(NARROW).matches : true) && this.run.shown.length > 1;
    this.grid.element.hidden = !few || detail.row !== null || !this.empty.hidden;
    this.layers.element.hidden = few || detail.row !== null || !this.empty.hidden;
    this.legend.build(scene, this.strips.front, few);
    scene.moment = this.player.moment;
    if (!few && !this.layers.element.hidden) this.layers.groups();
    this.strips.measureSize(scene);
    if (few) this.grid.measure(scene);
    else if (!this.layers.element.hidden) this.layers.measure(scene);
    if (detail.row) detail.measure(scene);
    this.curves.measure(scene);
    if (this.profile.element.isConnected) this.profile.measure(scene);
    this.draw();
  }

  draw() {
    const { scene, few, player, clock, detail } = this;
    scene.moment = player.moment;
    this.store.now = performance.now();
    if (detail.row) detail.draw(scene);
    else if (few) this.grid.draw(scene);
    else this.layers.draw(scene);
    this.strips.draw(scene);
    this.curves.draw(scene);
    if (this.profile.element.isConnected) this.profile.draw(scene);
    this.transport.draw(scene);
    this.decide();
    const key = `${scene.moment.frame} ${this.store.version} ${clock.length} ${clock.mode} ${this.run.status}`;
    if (key === this.told) return;
    this.told = key;
    this.transport.tell(clock.length ? caption(this.store, clock, scene.moment.frame) : []);
  }

  /** Show the statistic that was chosen. */
  chosen() {
    this.undecided = false;
    this.measure();
    this.remember();
  }

  /** Let the map show what stands out, once its numbers are here, if nobody has chosen. */
  decide() {
    const { store, strips, clock, scene } = this;
    if (!this.undecided || this.few || ["std", "saturated", "dead", "gradient", "nonfinite"].some((field) => store.fields.has(field) && !store.column(field))) return;
    this.undecided = false;
    const found = findings(store, strips.front, clock.frame(strips.front, scene.moment.frame));
    const told = worst(found.filter((each) => each.badness >= 2));
    const key = SHOWN_BY.get(told?.sort ?? "") ?? "std";
    if (told) this.layers.point(told.row);
    if (key === strips.measure.key) return;
    strips.measure = measure(key);
    strips.select.value = key;
    this.measure();
  }

  /** Update what does not have to follow every frame of an animation. */
  settle() {
    if (this.player.playing) return;
    if (this.few && !this.detail.row) this.grid.describe(this.scene);
    this.remember();
  }

  recolour() {
    this.scene.palette = palette();
    this.scene.hues = new Hues(this.run, this.scene.palette);
    this.strips.heats.clear();
    this.measure();
  }

  /** Open a layer, or close it. @param {Row | null} row */
  open(row) {
    const { detail } = this;
    if (row === detail.row) return;
    if (detail.row === null) this.opener = /** @type {HTMLElement | null} */ (document.activeElement);
    const last = detail.row;
    detail.front = this.strips.front;
    detail.open(row, this.scene);
    this.strips.marked = row ?? last;
    this.measure();
    if (row === null) {
      if (!this.few && last) this.layers.reveal(last, true);
      else this.opener?.focus({ preventScroll: true });
    }
    this.remember();
  }

  /** Open the layer before or after the open one. @param {number} by */
  move(by) {
    const { row } = this.detail;
    if (!row) return false;
    const next = this.run.rows.all[row.index + by];
    if (next) this.open(next);
    return true;
  }

  /** Show a row: in the tree if there is one. @param {Row} row @param {boolean} [open] */
  pick(row, open = false) {
    if (this.detail.row || this.few) {
      if (open || this.detail.row) this.open(row);
    } else this.layers.reveal(row, open);
  }

  /**
   * Go to the step and the layer of the worst of some verdicts, and point it out in the list.
   * @param {import("gammabeta/run.js").Verdict[]} verdicts
   */
  judge(verdicts) {
    const worst = verdicts.reduce((a, b) => (rank(b) < rank(a) ? b : a));
    const tick = this.clock.tickOfStep(worst.step, worst.arm);
    if (worst.arm !== this.strips.front && this.run.shown.some((arm) => arm.id === worst.arm)) this.bring(worst.arm);
    this.player.seek(Math.round(tick));
    this.verdicts.point(worst);
    const row = rowOf(this.run, worst);
    if (row && this.few) this.open(row);
    else if (row) this.pick(row);
  }

  /** Bring an arm to the front. @param {number} arm */
  bring(arm) {
    this.strips.front = arm;
    this.detail.front = arm;
    this.detail.open(this.detail.row, this.scene);
    this.strips.heats.clear();
    this.layers.listed = "";
    this.measure();
    this.told = "";
    this.draw();
  }

  pin() {
    this.scene.pinned = this.scene.pinned === null ? this.player.moment.frame : null;
    this.draw();
  }

  /** Align the arms by step, or by time. */
  axis() {
    const { clock, player, scene } = this;
    const frame = clock.frame(this.strips.front, player.moment.frame);
    clock.setMode(clock.mode === "step" ? "time" : "step");
    scene.pinned = null;
    const { step, seconds } = this.run.frames;
    const at = clock.mode === "time" ? seconds[frame] : step[frame];
    this.measure();
    player.seek(Math.max(0, clock.tickAt(at ?? Infinity)));
  }
}
