// Format numbers and names for the page.

/**
 * Four significant digits, whole numbers in full, and a typographic minus; null is "not finite".
 * @param {number | null | undefined} x
 */
export function number(x) {
  if (x === undefined) return "–";
  if (x === null || !Number.isFinite(x)) return "not finite";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e7) return String(x).replace("-", "−");
  const text = size >= 1e5 || size < 1e-3 ? x.toExponential(2).replace(/\.?0+e/, "e") : String(Number(x.toPrecision(4)));
  return text.replace(/-/g, "−");
}

/**
 * A fraction as a percentage: without decimals above 1%, and 0% or 100% only if exact.
 * @param {number | null | undefined} fraction
 */
export function percent(fraction) {
  if (fraction === undefined || fraction === null || Number.isNaN(fraction)) return "–";
  if (fraction > 0 && fraction < 0.001) return "<0.1%";
  if (fraction > 0.995 && fraction < 1) return ">99%";
  const digits = fraction > 0 && fraction < 0.01 ? 1 : 0;
  return `${(100 * fraction).toFixed(digits)}%`;
}

/**
 * A value on an axis: with as many digits as tell it from the others there.
 * @param {number} value
 * @param {number} low end of the axis
 * @param {number} high
 */
export function onAxis(value, low, high) {
  const wide = Math.log10(Math.max(Math.abs(low), Math.abs(high)) / (high - low));
  const digits = Math.min(8, Math.max(3, 2 + Math.ceil(wide)));
  const size = Math.abs(value);
  if (digits <= 4 || size >= 1e5 || size < 1e-3) return number(Number(value.toPrecision(digits)));
  return String(Number(value.toPrecision(digits))).replace("-", "−");
}

/**
 * A ratio in words: "30 times", "1/120 of".
 * @param {number} ratio
 */
export function times(ratio) {
  if (!(ratio > 0)) return "0 times";
  if (ratio >= 0.95) return `${rounded(ratio)} times`;
  return ratio < 1e-9 ? "less than a billionth of" : `1/${rounded(1 / ratio)} of`;
}

/**
 * Two digits, with thousands apart.
 * @param {number} x
 */
function rounded(x) {
  if (x >= 1e9) return x.toExponential(0);
  const digits = x < 10 ? Number(x.toPrecision(2)) : x < 1000 ? Math.round(x) : Number(x.toPrecision(2));
  return digits.toLocaleString("en");
}

/** @type {Record<string, string>} */
export const STAGE_NAMES = { z: "z", normalized: "x̂", affine: "γx̂ + β", activation: "activation", residual: "sum", attention: "probabilities", attended: "attended" };

/** @type {Record<string, string>} */
export const STAGE_WORDS = {
  z: "as it arrives",
  normalized: "mean 0, variance 1",
  affine: "stretched, shifted",
  activation: "passed on",
  residual: "the residual stream",
  attention: "softmax of the scores",
  attended: "values, weighted",
};
