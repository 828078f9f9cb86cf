// Names of the arms as they fit beside each other.

/** @typedef {import("gammabeta/run.js").Arm} Arm */

/** @type {WeakMap<Arm[], Map<number, string>>} */
const known = new WeakMap();

/**
 * Arm id → its name, without the words that all arms have.
 * @param {Arm[]} arms
 */
export function shortNames(arms) {
  const found = known.get(arms);
  if (found) return found;
  const words = arms.map((arm) => arm.name.split(/\s+/));
  const common = new Set(words[0]?.filter((word) => words.every((each) => each.includes(word))));
  const short = words.map((each) => each.filter((word) => !common.has(word)).join(" "));
  const whole = arms.length < 3 || new Set(short).size < arms.length || short.includes("");
  const names = new Map(arms.map((arm, i) => [arm.id, whole ? arm.name : short[i] ?? arm.name]));
  known.set(arms, names);
  return names;
}
