// Compute the shape of a histogram, and the shapes between two shapes.

/** @typedef {import("gammabeta/axis.js").Axis} Axis */
/** @typedef {import("gammabeta/reading.js").Reading} Reading */
/** Heights over the bins of the axis, the highest 1. @typedef {Float32Array} Shape */

/** Standard deviation of the smoothing, in bins: enough for 4,096 values to look smooth. */
const SMOOTHING = 2.4;
const KERNEL = kernel(SMOOTHING);
/** Quantiles that carry a shape from one stage to the next. */
const QUANTILES = 512;

/**
 * The shape between two stages: each quantile moves in a straight line on the axis. For a map that
 * preserves order (normalizing, scaling, a sigmoid), each quantile really goes there. Both ends are the
 * recorded histograms.
 * @param {Reading} from
 * @param {Reading} to
 * @param {number} t 0 … 1
 * @param {Axis} axis
 * @returns {Shape}
 */
export function between(from, to, t, axis) {
  const a = quantilesOf(from, axis);
  const b = quantilesOf(to, axis);
  const counts = new Float64Array(axis.bins);
  for (let q = 0; q < QUANTILES; q++) {
    const left = mix(a[q] ?? 0, b[q] ?? 0, t);
    const right = Math.max(mix(a[q + 1] ?? 0, b[q + 1] ?? 0, t), left + 0.05);
    // Spread the mass of one quantile evenly over its bins.
    for (let i = Math.floor(left); i < right && i < axis.bins; i++) {
      const overlap = Math.min(right, i + 1) - Math.max(left, i);
      if (i >= 0) counts[i] = (counts[i] ?? 0) + overlap / (right - left);
    }
  }
  return heights(counts, axis);
}

/**
 * Heights between two frames of one stage.
 * @param {Shape} a
 * @param {Shape} b
 * @param {number} t
 * @returns {Shape}
 */
export function blend(a, b, t) {
  if (t <= 0) return a;
  const shape = new Float32Array(a.length);
  for (let i = 0; i < shape.length; i++) shape[i] = mix(a[i] ?? 0, b[i] ?? 0, t);
  return shape;
}

/**
 * The density of counts per unit of x, as heights on the axis.
 * @param {ArrayLike<number>} counts
 * @param {Axis} axis
 * @returns {Shape}
 */
export function heights(counts, axis) {
  const shape = new Float32Array(axis.bins);
  const reach = (KERNEL.length - 1) / 2;
  let first = 0;
  let last = axis.bins;
  while (first < last && !counts[first]) first++;
  while (last > first && !counts[last - 1]) last--;
  if (first === last) return shape;
  const from = Math.max(0, first - reach);
  const to = Math.min(axis.bins, last + reach);
  let most = 0;
  for (let i = from; i < to; i++) {
    let sum = 0;
    const low = Math.max(-reach, -i);
    const high = Math.min(reach, axis.bins - 1 - i);
    for (let k = low; k <= high; k++) {
      sum += /** @type {number} */ (KERNEL[k + reach]) * /** @type {number} */ (counts[i + k]);
    }
    const height = sum / (axis.widths[i] ?? 1);
    shape[i] = height;
    if (height > most) most = height;
  }
  if (most > 0) for (let i = from; i < to; i++) shape[i] = (shape[i] ?? 0) / most;
  return shape;
}

/**
 * Positions, in bins, of the QUANTILES + 1 quantiles of a signal. Values beyond the axis count as at its
 * end, exact zeros as at the middle.
 * @param {Reading} signal
 * @param {Axis} axis
 */
function quantilesOf(signal, axis) {
  const result = new Float32Array(QUANTILES + 1);
  const counts = Float64Array.from(signal.bins ?? []);
  const drawn = counts.reduce((sum, count) => sum + count, 0);
  const onAxis = Math.max(0, signal.total - signal.under - signal.over - signal.zeros);
  const scale = drawn > 0 ? onAxis / drawn : 0;
  for (let i = 0; i < counts.length; i++) counts[i] = (counts[i] ?? 0) * scale;
  counts[axis.bins / 2] = (counts[axis.bins / 2] ?? 0) + signal.zeros;
  const total = counts.reduce((sum, count) => sum + count, signal.under + signal.over);
  let bin = -1; // −1: below the axis
  let below = 0;
  let here = signal.under;
  for (let q = 0; q <= QUANTILES; q++) {
    const target = (q / QUANTILES) * total;
    while (below + here < target && bin < counts.length) {
      below += here;
      bin += 1;
      here = bin < counts.length ? counts[bin] ?? 0 : signal.over;
    }
    const inside = here > 0 ? (target - below) / here : 0;
    result[q] = Math.min(axis.bins, bin < 0 ? 0 : bin + inside);
  }
  return result;
}

/** @param {number} spread */
function kernel(spread) {
  const reach = Math.ceil(3 * spread);
  const weights = [];
  for (let k = -reach; k <= reach; k++) weights.push(Math.exp(-0.5 * (k / spread) ** 2));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / sum);
}

/**
 * @param {number} a
 * @param {number} b
 * @param {number} t
 */
function mix(a, b, t) {
  return a + (b - a) * t;
}
