// The columns of the table of rows: how wide each is, at this width of the page.

/** @typedef {import("gammabeta/run.js").Stage} Stage */
/**
 * @typedef {object} Columns
 * @property {number} width
 * @property {number} name width of the names
 * @property {{stage: Stage, x: number, width: number}[]} stages
 * @property {{key: string, label: string, x: number}[]} numbers right edges
 * @property {{x: number, width: number}} history
 */

/** Numbers that stand in every row, where there is room. */
const NUMBERS = ["saturated", "dead", "gradient", "update"];
const NUMBER = 68;

/**
 * @param {number} width
 * @param {Stage[]} stages of the arm in front
 * @param {import("gammabeta/measures.js").Measure} measure
 * @param {Set<string>} known keys of the measures that the run has
 * @returns {Columns}
 */
export function columns(width, stages, measure, known) {
  const narrow = width < 640;
  const name = narrow ? Math.round(width * 0.44) : Math.round(Math.min(300, Math.max(190, width * 0.21)));
  const shown = narrow ? stages.slice(0, 1) : stages;
  const extra = width < 900 ? [] : NUMBERS.filter((key) => known.has(key) && key !== measure.key);
  const numbers = [measure.key, ...extra];
  const history = narrow ? 0 : Math.max(110, Math.round(width * 0.2));
  const free = width - name - numbers.length * NUMBER - history - 24;
  const each = Math.max(34, Math.min(150, Math.floor(free / Math.max(1, shown.length))));
  let x = name + 6;
  const placed = shown.map((stage) => {
    const column = { stage, x, width: each - 8 };
    x += each;
    return column;
  });
  const right = numbers.map((key, i) => ({ key, label: SHORT.get(key) ?? measure.label, x: x + (i + 1) * NUMBER - 4 }));
  const start = x + numbers.length * NUMBER + 12;
  return { width, name, stages: placed, numbers: right, history: { x: start, width: history ? width - start - 6 : 0 } };
}

/** Labels that are too long for the head of a column. @type {Map<string, string>} */
const SHORT = new Map([
  ["relative", "σ ÷ like"],
  ["enters", "σ in"],
  ["leaves", "σ out"],
  ["rms", "RMS out"],
  ["saturated", "saturated"],
  ["dead", "dead"],
  ["gradient", "gradient"],
  ["update", "update"],
  ["mean_shift", "mean shift"],
  ["var_ratio", "var. shift"],
]);
