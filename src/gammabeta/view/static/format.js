// Format numbers and names for the page.

/**
 * Four significant digits and a typographic minus; null is "not finite".
 * @param {number | null | undefined} x
 */
export function number(x) {
  if (x === undefined) return "–";
  if (x === null) return "not finite";
  if (x === 0) return "0";
  const size = Math.abs(x);
  const text = size >= 1e5 || size < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4)));
  return text.replace(/-/g, "−");
}

/**
 * A fraction as a percentage: without decimals above 1%, and 0% or 100% only if exact.
 * @param {number | null | undefined} fraction
 */
export function percent(fraction) {
  if (fraction === undefined || fraction === null) return "–";
  if (fraction > 0 && fraction < 0.001) return "<0.1%";
  if (fraction > 0.995 && fraction < 1) return ">99%";
  const digits = fraction > 0 && fraction < 0.01 ? 1 : 0;
  return `${(100 * fraction).toFixed(digits)}%`;
}

/** @type {Record<string, string>} */
export const STAGE_NAMES = { z: "z", normalized: "x̂", affine: "γx̂ + β", activation: "activation" };

/** @type {Record<string, string>} */
export const STAGE_WORDS = {
  z: "as it arrives",
  normalized: "mean 0, variance 1",
  affine: "stretched, shifted",
  activation: "passed on",
};
