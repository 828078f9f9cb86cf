// The keyboard of the whole page; the tree has its own in table.js.

/** @typedef {import("gammabeta/player.js").Player} Player */
/**
 * @typedef {object} Hands
 * @property {Player} player
 * @property {(number: number) => boolean} open open the layer of this number, if there is one
 * @property {() => void} close
 * @property {() => void} pin
 * @property {() => void} slow
 * @property {() => void} help
 * @property {() => boolean} search
 * @property {() => boolean} enter go to the rows
 * @property {(by: number) => boolean} next the layer before or after the one that is open
 * @property {() => void} theme
 */

/** @param {Hands} hands */
export function listen(hands) {
  const { player } = hands;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (target.closest("input, textarea")) return;
    const choosing = target.closest("select") !== null;
    if (event.key === " " && target.closest("button, a, select")) return; // Space presses what has the focus
    if (choosing && (event.key.startsWith("Arrow") || event.key.length === 1)) return;
    const stride = event.shiftKey ? 10 : 1;
    const slider = target.closest("[role=slider]") !== null;
    /** @type {Map<string, () => boolean | void>} */
    const actions = new Map([
      [" ", () => player.toggle()],
      ["ArrowLeft", () => player.step(-stride)],
      ["ArrowRight", () => player.step(stride)],
      [",", () => player.step(-1)],
      [".", () => player.step(1)],
      ["Home", () => player.seek(0)],
      ["End", () => player.seek(Infinity)],
      ["Escape", hands.close],
      ["s", hands.slow],
      ["g", hands.pin],
      ["t", hands.theme],
      ["/", hands.search],
      ["j", () => hands.next(1)],
      ["k", () => hands.next(-1)],
      ["?", hands.help],
      ["ArrowDown", () => !slider && hands.enter()],
    ]);
    if (slider) {
      actions.set("PageUp", () => player.step(-10));
      actions.set("PageDown", () => player.step(10));
    }
    for (let digit = 1; digit <= 9; digit++) actions.set(String(digit), () => hands.open(digit));
    const action = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!action || action() === false) return;
    event.preventDefault();
  });
}
