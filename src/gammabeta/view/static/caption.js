// One line about the most remarkable numbers at the playhead.

import { number, percent } from "gammabeta/format.js";

/** @typedef {import("gammabeta/run.js").Run} Run */

/**
 * @param {Run} run
 * @param {number} frame
 */
export function caption(run, frame) {
  const step = run.steps[frame];
  if (step === undefined) return "";
  const arms = run.arms.filter((arm) => run.probes.some((p) => p.arm === arm.id));
  const states = arms.map((arm) => state(run, arm, frame, step));
  const worst = states.reduce((a, b) => (b.badness > a.badness ? b : a), states[0] ?? QUIET);
  const others = states.filter((s) => s !== worst && s.badness < 1).map((s) => s.short);
  return [worst.words, ...others].filter(Boolean).join(" ");
}

const QUIET = { badness: 0, words: "", short: "" };

/**
 * The state of an arm: `words` if the caption is about this arm, `short` beside another arm.
 * @param {Run} run
 * @param {import("gammabeta/run.js").Arm} arm
 * @param {number} frame
 * @param {number} step
 */
function state(run, arm, frame, step) {
  const depth = Math.max(...run.probes.filter((p) => p.arm === arm.id).map((p) => p.layer));
  const layers = [];
  for (let layer = 1; layer <= depth; layer++) {
    const stage = run.preactivation(arm.id, layer);
    const signal = run.signal(run.probe(arm.id, layer, stage), frame);
    if (signal) layers.push({ layer, signal });
  }
  const most = layers.reduce((a, b) => ((b.signal.saturated ?? 0) > (a.signal.saturated ?? 0) ? b : a), /** @type {typeof layers[0]} */ (layers[0]));
  if (!most) return QUIET;
  const name = arm.name.charAt(0).toUpperCase() + arm.name.slice(1);
  const saturated = most.signal.saturated;
  const short = saturated === null ? spread(name, layers) : `${name}: ${percent(saturated)} at most.`;

  const diverged = run.diverged(arm.id, step);
  if (diverged !== undefined) {
    return { badness: 5, words: `${name} diverged: the loss was not finite at step ${diverged}.`, short };
  }
  const broken = layers.find(({ signal }) => signal.nonfinite > 0);
  if (broken) {
    const part = percent(broken.signal.nonfinite / broken.signal.count);
    return { badness: 4, words: `Layer ${broken.layer} ${arm.name}: ${part} of its values are not finite.`, short };
  }
  const first = layers[0]?.signal.gradient;
  const last = layers[layers.length - 1]?.signal.gradient;
  const ratio = first && last ? last / first : null;
  const share = ratio !== null && ratio >= 1e6 ? "less than a millionth" : `1/${number(Math.round(ratio ?? 1))}`;
  const fading = ratio !== null && ratio >= 10 ? `the gradient that reaches layer 1 is ${share} of layer ${depth}'s` : "";
  if (saturated !== null && saturated > remarkable(run, arm.id, most.layer)) {
    const tail = fading ? `; ${fading}` : "";
    return { badness: 1 + saturated, words: `Layer ${most.layer} ${arm.name}: ${percent(saturated)} saturated${tail}.`, short };
  }
  if (fading) return { badness: 1, words: `${name}: ${fading}.`, short: saturated === null ? short : "" };
  const drift = layers.find(({ signal }) => signal.std !== null && (signal.std > 5 || signal.std < 0.2));
  if (drift) {
    return { badness: 0.5, words: `Layer ${drift.layer} ${arm.name}: σ is ${number(drift.signal.std)}.`, short: "" };
  }
  return { badness: 0.1, words: spread(name, layers), short: spread(name, layers) };
}

/**
 * The saturated fraction above which the caption mentions it. Half of a healthy ReLU's inputs are
 * below 0, but those of a sigmoid or tanh should rarely be saturated.
 * @param {Run} run
 * @param {number} arm
 * @param {number} layer
 */
function remarkable(run, arm, layer) {
  const activation = run.probe(arm, layer, run.preactivation(arm, layer))?.activation ?? "";
  return run.saturation[activation]?.includes(null) ? 0.9 : 0.2;
}

/**
 * @param {string} name
 * @param {{signal: import("gammabeta/run.js").Signal}[]} layers
 */
function spread(name, layers) {
  const stds = layers.map(({ signal }) => signal.std).filter((std) => std !== null);
  if (stds.length === 0) return "";
  const [least, most] = [number(Math.min(...stds)), number(Math.max(...stds))];
  return least === most ? `${name}: σ is ${least}.` : `${name}: σ between ${least} and ${most}.`;
}
