// What the doctor found while the run was recorded: read from the record, not judged here.

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/run.js").Verdict} Verdict */
/** @typedef {import("gammabeta/rows.js").Row} Row */
/** @typedef {"error" | "warning" | "info"} Severity */

/** From the worst to the mildest. */
export const SEVERITIES = /** @type {Severity[]} */ (["error", "warning", "info"]);

/** A shape for each severity, so that colour is not needed to tell them apart. @type {Record<Severity, string>} */
const SHAPES = {
  error: "M5 1h6l4 4v6l-4 4H5l-4-4V5z", // an octagon
  warning: "M8 1l7.5 13.5H.5z", // a triangle
  info: "M8 1a7 7 0 1 0 0 14A7 7 0 0 0 8 1z", // a circle
};

/** What stands in the shape. @type {Record<Severity, string>} */
const SIGNS = {
  error: "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6",
  warning: "M8 5.6v4.2M8 11.9v.6",
  info: "M8 7.4v4M8 4.6v.6",
};

/** @param {Severity} severity */
export function symbol(severity) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  for (const [kind, path] of [["shape", SHAPES[severity]], ["sign", SIGNS[severity]]]) {
    const made = document.createElementNS(space, "path");
    made.setAttribute("class", kind ?? "");
    made.setAttribute("d", path ?? "");
    svg.append(made);
  }
  return svg;
}

/**
 * The verdicts, those that differ only in the layer made one, by step and then the worst first.
 * @param {Run} run
 * @returns {Verdict[]}
 */
export function grouped(run) {
  /** @type {Map<string, Verdict>} */
  const groups = new Map();
  for (const each of run.verdicts) {
    const key = JSON.stringify([each.arm, each.step, each.code, each.severity, each.cause]);
    const known = groups.get(key);
    if (known) known.layers = [...new Set([...known.layers, each.layer, ...each.layers])];
    else groups.set(key, { ...each, layers: [...new Set([each.layer, ...each.layers])] });
  }
  return [...groups.values()].sort((a, b) => a.step - b.step || rank(a) - rank(b));
}

/** 0 for an error. @param {Verdict} verdict */
export function rank(verdict) {
  return SEVERITIES.indexOf(verdict.severity);
}

/** Layers whose names together are longer are counted instead. */
const LONG = 40;

/** The layers in words: a few short names, else the first one and the number of the others. @param {Verdict} verdict */
export function place({ layer, layers }) {
  const names = layers.map((each) => each || "the model").join(", ");
  const more = layers.length - 1;
  if (more < 1) return layer || "the model";
  if (more < 3 && names.length <= LONG) return names;
  return layer ? `${layer} and ${more} more layer${more > 1 ? "s" : ""}` : `the model and ${more} of its layers`;
}

/** A cause as a sentence; a first word that is code or a symbol keeps its case. @param {string} text */
export function sentence(text) {
  const word = (text.split(" ", 1)[0] ?? "").replace(/[,:;]+$/, "");
  const first = text.charAt(0);
  return (/^[A-Za-z][A-Za-z'-]*$/.test(word) ? first.toUpperCase() : first) + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

/**
 * The row that shows a layer: its own, else the first one inside it, else the one that it is in.
 * @param {Run} run
 * @param {Verdict} verdict
 * @returns {Row | null}
 */
export function rowOf(run, { layer, layers }) {
  const rows = run.rows.all;
  for (const name of [layer, ...layers]) {
    if (!name) continue;
    const found = rows.find((row) => row.title === name || row.name === name) ?? rows.find((row) => row.name.startsWith(`${name}.`));
    if (found) return found;
    for (let part = name; part.includes("."); ) {
      part = part.slice(0, part.lastIndexOf("."));
      const around = rows.find((row) => row.name === part);
      if (around) return around;
    }
  }
  return null;
}
