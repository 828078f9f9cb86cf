// The rows of the page: a layer, a residual sum, an attention; the same module in every arm is one row.

/** @typedef {import("gammabeta/run.js").Arm} Arm */
/** @typedef {import("gammabeta/run.js").Probe} Probe */
/** @typedef {import("gammabeta/run.js").Stage} Stage */
/** @typedef {"layer" | "residual" | "attention" | "attended"} Kind */

/** The stages of a layer that have a distribution to show, in order. */
const STAGES = /** @type {Stage[]} */ (["z", "normalized", "affine", "activation"]);
/** Stages that are rows of their own. */
const OWN = /** @type {const} */ (["residual", "attention", "attended"]);
/** What a row of one's own is called under its module. @type {Record<Kind, string>} */
export const KIND_NAMES = { layer: "", residual: "residual sum", attention: "attention", attended: "attended" };

/** Names that say which kind of row they are, such as layer1.0.sum. */
const SAYS = /(^|\.)(sum|softmax|residual|attention|attended)\d*$/;

export class Row {
  /**
   * @param {string} name path of its module
   * @param {Kind} kind
   */
  constructor(name, kind) {
    this.name = name;
    this.kind = kind;
    /** Position among the rows. */
    this.index = 0;
    /** Its number in call order. @type {number} */
    this.layer = 0;
    /** Arm id → stage → its probe. @type {Map<number, Map<Stage, Probe>>} */
    this.arms = new Map();
  }

  /** What to call it: its module, and what of it, if the name does not say so. */
  get title() {
    return this.kind === "layer" || SAYS.test(this.name) ? this.name : `${this.name} ${KIND_NAMES[this.kind]}`;
  }

  /**
   * @param {number} arm
   * @param {Stage} stage
   */
  probe(arm, stage) {
    return this.arms.get(arm)?.get(stage);
  }

  /**
   * The first of these stages that the arm has here.
   * @param {number} arm
   * @param {readonly Stage[]} stages
   */
  first(arm, stages) {
    const known = this.arms.get(arm);
    if (known) for (const stage of stages) if (known.has(stage)) return known.get(stage);
    return undefined;
  }

  /**
   * The stages with a distribution that an arm has here, in order.
   * @param {number} arm
   */
  stages(arm) {
    /** @type {Map<Stage, Probe> | undefined} */
    const known = this.arms.get(arm);
    return [...OWN, ...STAGES].filter((stage) => known?.has(stage));
  }

  /**
   * The stage that is the activation's input.
   * @param {number} arm
   * @returns {Stage}
   */
  preactivation(arm) {
    if (this.kind !== "layer") return this.kind;
    return this.probe(arm, "affine") ? "affine" : "z";
  }

  /** @param {number} arm */
  activation(arm) {
    return this.first(arm, ["affine", "z", "activation", ...OWN])?.activation ?? "";
  }
}

export class Rows {
  /**
   * @param {Arm[]} arms
   * @param {Probe[]} probes
   */
  constructor(arms, probes) {
    /** In call order; a row that only a later arm has comes after the row it follows there. @type {Row[]} */
    this.all = [];
    /** Arm id → number of its rows. @type {Map<number, number>} */
    this.depths = new Map();
    /** Arms that normalize. @type {Set<number>} */
    this.normalizing = new Set();
    /** @type {Map<string, Row>} */
    const known = new Map();
    const byArm = new Map(arms.map((arm) => [arm.id, /** @type {Probe[]} */ ([])]));
    for (const probe of probes) byArm.get(probe.arm)?.push(probe);
    for (const [arm, list] of byArm) this.addArm(arm, list, known);
    this.all.forEach((row, i) => (row.index = i));
  }

  /**
   * @param {number} arm
   * @param {Probe[]} probes
   * @param {Map<string, Row>} known
   */
  addArm(arm, probes, known) {
    // A module may be called twice: its rows are counted, so that the second call matches the second.
    /** @type {Map<number, Row>} */
    const here = new Map();
    /** @type {Map<string, number>} */
    const times = new Map();
    /** Where the next row that is new belongs. */
    let after = this.all.length ? -1 : Infinity;
    /** What is a row of its own may have an activation, too. @type {Map<number, Kind>} */
    const kinds = new Map();
    for (const probe of probes) {
      const own = OWN.find((kind) => kind === probe.stage);
      if (own) kinds.set(probe.layer, own);
    }
    for (const probe of [...probes].sort((a, b) => a.layer - b.layer || a.id - b.id)) {
      const kind = kinds.get(probe.layer) ?? "layer";
      let row = here.get(probe.layer);
      if (!row) {
        const name = `${kind}:${probe.name}`;
        const time = (times.get(name) ?? 0) + 1;
        times.set(name, time);
        const key = `${name}:${time}`;
        row = known.get(key);
        if (!row) {
          row = new Row(probe.name, kind);
          row.layer = probe.layer;
          known.set(key, row);
          if (after === Infinity) this.all.push(row);
          else this.all.splice(after + 1, 0, row);
        }
        if (after !== Infinity) after = this.all.indexOf(row);
        here.set(probe.layer, row);
        row.arms.set(arm, new Map());
      }
      row.arms.get(arm)?.set(probe.stage, probe);
      if (probe.stage === "normalized") this.normalizing.add(arm);
    }
    this.depths.set(arm, here.size);
  }

  get length() {
    return this.all.length;
  }

  /** @param {number} arm */
  depth(arm) {
    return this.depths.get(arm) ?? 0;
  }

  /**
   * The stages that an arm has anywhere, in order.
   * @param {number} arm
   */
  stages(arm) {
    return STAGES.filter((stage) => this.all.some((row) => row.probe(arm, stage)));
  }
}
