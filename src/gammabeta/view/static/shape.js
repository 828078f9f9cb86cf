// Compute the shape of recorded counts, and the shapes between two shapes.

/** @typedef {import("gammabeta/run.js").Signal} Signal */
/** @typedef {import("gammabeta/axis.js").Axis} Axis */
/** Heights over the bins of the axis, the highest 1. @typedef {Float32Array} Shape */

/** Standard deviation of the smoothing, in bins: enough for 4,096 values to look smooth. */
const SMOOTHING = 2.4;
const KERNEL = kernel(SMOOTHING);
/** Quantiles that carry a shape from one stage to the next. */
const QUANTILES = 512;

/** @type {WeakMap<Signal, Shape>} */
const shapes = new WeakMap();
/** @type {WeakMap<Signal, Float32Array>} */
const quantiles = new WeakMap();

/**
 * The density of a signal per unit of x, as heights on the axis, without exact zeros (of a ReLU),
 * which are drawn as a pillar.
 * @param {Signal} signal
 * @param {Axis} axis
 * @returns {Shape}
 */
export function shapeOf(signal, axis) {
  let shape = shapes.get(signal);
  if (!shape) {
    const counts = new Float64Array(axis.bins);
    signal.counts.forEach((count, i) => (counts[signal.first + i] = count));
    const middle = axis.bins / 2;
    counts[middle] = Math.max(0, (counts[middle] ?? 0) - signal.zeros);
    shape = heights(counts, axis, signal.first, signal.first + signal.counts.length);
    shapes.set(signal, shape);
  }
  return shape;
}

/**
 * The shape between two stages: each quantile moves in a straight line on the axis. For a map that
 * preserves order (normalizing, scaling, a sigmoid), each quantile really goes there. Both ends are the
 * recorded histograms.
 * @param {Signal} from
 * @param {Signal} to
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
  return heights(counts, axis, 0, axis.bins);
}

/**
 * Compute the shapes of a run in advance, while the page is idle.
 * @param {import("gammabeta/run.js").Run} run
 */
export function prepare(run) {
  if (!("requestIdleCallback" in window)) return;
  const all = [...run.signals.values()].flat().sort((a, b) => a.step - b.step);
  let next = 0;
  /** @param {IdleDeadline} idle */
  const work = (idle) => {
    for (let signal; idle.timeRemaining() > 1 && (signal = all[next]); next++) shapeOf(signal, run.axis);
    if (next < all.length) requestIdleCallback(work);
  };
  requestIdleCallback(work);
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
 * @param {Float64Array} counts
 * @param {Axis} axis
 * @param {number} first bin that may hold anything
 * @param {number} last bin after the last of these
 * @returns {Shape}
 */
function heights(counts, axis, first, last) {
  const shape = new Float32Array(axis.bins);
  const reach = (KERNEL.length - 1) / 2;
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
    shape[i] = sum / (axis.widths[i] ?? 1);
    most = Math.max(most, shape[i] ?? 0);
  }
  if (most > 0) for (let i = from; i < to; i++) shape[i] = (shape[i] ?? 0) / most;
  return shape;
}

/**
 * Positions, in bins, of the QUANTILES + 1 quantiles of a signal. Values beyond the axis count as at its
 * end.
 * @param {Signal} signal
 * @param {Axis} axis
 */
function quantilesOf(signal, axis) {
  let result = quantiles.get(signal);
  if (result) return result;
  result = new Float32Array(QUANTILES + 1);
  const total = signal.counts.reduce((sum, count) => sum + count, signal.under + signal.over);
  let bin = -1; // −1: below the axis
  let below = 0;
  let here = signal.under;
  for (let q = 0; q <= QUANTILES; q++) {
    const target = (q / QUANTILES) * total;
    while (below + here < target && bin < signal.counts.length) {
      below += here;
      bin += 1;
      here = bin < signal.counts.length ? signal.counts[bin] ?? 0 : signal.over;
    }
    const inside = here > 0 ? (target - below) / here : 0;
    const at = bin < 0 ? 0 : bin >= signal.counts.length ? axis.bins : signal.first + bin + inside;
    result[q] = Math.min(axis.bins, at);
  }
  quantiles.set(signal, result);
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
