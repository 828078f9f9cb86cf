// The page: builds its parts and updates them with the playhead.

import * as address from "gammabeta/address.js";
import { caption } from "gammabeta/caption.js";
import { Detail } from "gammabeta/detail.js";
import { element, icon } from "gammabeta/dom.js";
import { Grid, setText } from "gammabeta/grid.js";
import { helpDialog, listen } from "gammabeta/keys.js";
import { Player, SPEEDS } from "gammabeta/player.js";
import { prepare } from "gammabeta/shape.js";
import { follow, load } from "gammabeta/source.js";
import { Strips } from "gammabeta/strips.js";
import { isDark, palette, setTheme, storedTheme } from "gammabeta/theme.js";
import { signalWords, Tip } from "gammabeta/tip.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/cell.js").Scene} Scene */

const NARROW = "(max-width: 760px)";

/** @type {Record<string, string>} */
const STATUS_WORDS = {
  running: "live",
  finished: "",
  interrupted: "interrupted",
  failed: "ended by an error",
  killed: "the run was killed; this is what it recorded",
  snapshot: "saved while it ran",
};

/** @param {Run} run */
function start(run) {
  const player = new Player(() => run.length);
  const tip = new Tip();
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  /** @type {Scene} */
  const scene = { run, moment: player.moment, palette: palette(), pinned: null, ghostArms: false };

  const detail = new Detail(run, () => open(null));
  const grid = new Grid(run, (layer) => open(layer));
  const strips = new Strips(run, (frame) => player.seek(frame));
  const help = helpDialog();

  // Head.
  const status = element("span", { class: "status", role: "status" });
  const themeButton = button("icon", "Switch between light and dark", icon("theme"));
  const helpButton = button("icon", "Keys and help", "?");
  const embedded = document.getElementById("run") !== null;
  const save = element("a", { class: "icon button", href: "./run.html", download: "", "aria-label": "Save as one HTML file", title: "Save as one HTML file" }, icon("save"));
  const head = element(
    "header",
    { class: "top" },
    element("span", { class: "mark" }, "gammabeta"),
    element("h1", {}, run.title),
    status,
    element("span", { class: "space" }),
    helpButton,
    themeButton,
    ...(embedded ? [] : [save]),
  );
  const note = element("p", { class: "note" }, run.note);

  // Transport.
  const first = button("icon", "First frame", icon("first"));
  const play = button("icon play", "Play", icon("play"));
  const last = button("icon", "Last frame", icon("last"));
  const speeds = SPEEDS.map((speed) => {
    const made = button("speed", `Speed ${speed} times`, speed === 0.25 ? "¼×" : `${speed}×`);
    made.addEventListener("click", () => player.setSpeed(speed));
    return made;
  });
  const slow = button("toggle", "", "slow motion");
  const pin = button("toggle", "", "pin");
  pin.title = "Keep this frame as an outline";
  const step = element("output", { class: "step" });
  const words = element("p", { class: "caption" });
  const transport = element(
    "section",
    { class: "transport", "aria-label": "Playback" },
    element("div", { class: "group" }, first, play, last),
    element("div", { class: "group", role: "group", "aria-label": "Speed" }, ...speeds),
    element("div", { class: "group" }, slow, pin),
    step,
    words,
  );

  const app = document.getElementById("app");
  if (!app) return;
  app.replaceChildren(head, element("main", {}, ...(run.note ? [note] : []), grid.element, detail.element, strips.element, transport), help);
  document.title = `${run.title} · gammabeta`;

  /** What had the focus when a layer was opened, to give it back. @type {HTMLElement | null} */
  let opener = null;
  /** @param {number | null} layer */
  function open(layer) {
    if (layer === detail.layer) return;
    if (detail.layer === null) opener = /** @type {HTMLElement | null} */ (document.activeElement);
    detail.open(layer);
    grid.element.hidden = layer !== null;
    measure();
    if (layer === null) opener?.focus({ preventScroll: true });
    remember();
  }

  function measure() {
    scene.ghostArms = matchMedia(NARROW).matches && run.arms.length > 1;
    grid.build();
    grid.measure(scene);
    detail.measure(scene);
    strips.measure(scene);
    draw();
  }

  let drawn = -1;
  function draw() {
    scene.moment = player.moment;
    grid.draw(scene);
    detail.draw(scene);
    strips.draw(scene);
    const now = run.steps[scene.moment.frame];
    setText(step, now === undefined ? "" : `step ${now} / ${run.last}`);
    const waiting = player.playing && player.live && player.position >= player.end;
    if (drawn !== scene.moment.frame || !player.playing) setText(words, caption(run, scene.moment.frame));
    drawn = scene.moment.frame;
    play.setAttribute("aria-label", player.playing ? "Pause" : "Play");
    play.classList.toggle("waiting", waiting);
    swap(play, player.playing ? "pause" : "play");
    slow.setAttribute("aria-pressed", String(player.slow));
    pin.setAttribute("aria-pressed", String(scene.pinned !== null));
    speeds.forEach((made, i) => made.setAttribute("aria-pressed", String(player.speed === SPEEDS[i])));
  }

  /** Update what does not have to follow every frame of an animation. */
  function settle() {
    if (player.playing) return;
    grid.describe(scene);
    remember();
  }

  function remember() {
    const here = run.steps[player.moment.frame];
    address.write({
      run: run.title,
      ...(player.playing || here === undefined ? {} : { step: here }),
      speed: player.speed,
      slow: player.slow,
      ...(detail.layer === null ? {} : { layer: detail.layer }),
    });
  }

  function recolour() {
    scene.palette = palette();
    measure();
  }

  function togglePin() {
    scene.pinned = scene.pinned === null ? player.moment.frame : null;
    draw();
  }

  player.listeners.add(draw);
  player.listeners.add(settle);
  first.addEventListener("click", () => player.seek(0));
  last.addEventListener("click", () => player.seek(Infinity));
  play.addEventListener("click", () => player.toggle());
  slow.addEventListener("click", () => player.setSlow(!player.slow));
  pin.addEventListener("click", togglePin);
  helpButton.addEventListener("click", () => help.showModal());
  themeButton.addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    recolour();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  still.addEventListener("change", () => (player.still = still.matches));
  grid.element.addEventListener("shown", measureCellsThenDraw);
  function measureCellsThenDraw() {
    grid.measure(scene);
    draw();
  }
  new ResizeObserver(measure).observe(app);
  listen({
    player,
    open,
    close: () => open(null),
    pin: togglePin,
    slow: () => player.setSlow(!player.slow),
    help: () => help.showModal(),
    depth: () => run.depth,
  });

  // Numbers under the pointer.
  const main = /** @type {HTMLElement} */ (app.querySelector("main"));
  /** Where the pointer rests, so that its numbers follow the playhead. @type {PointerEvent | null} */
  let resting = null;
  main.addEventListener("pointermove", (event) => {
    resting = event;
    showTip(event);
  });
  main.addEventListener("pointerleave", () => {
    resting = null;
    tip.hide();
  });
  let told = -1;
  player.listeners.add(() => {
    if (resting && told !== player.moment.frame) showTip(resting);
    told = player.moment.frame;
  });
  /** @param {PointerEvent} event */
  function showTip(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    const cell = [...grid.cells, ...detail.cells].find((each) => each.canvas === target);
    if (cell) {
      const frame = player.moment.frame;
      const signal = run.signal(run.probe(cell.arm, cell.layer, cell.stage), frame);
      tip.show(signalWords(cell.layer, cell.stage, run.steps[frame] ?? 0, signal, run.fields), event);
      return;
    }
    const found = strips.slider.contains(target) ? strips.hover(event) : null;
    if (found) tip.show(found, event);
    else tip.hide();
  }

  // Begin at the address's position, or playing.
  player.still = still.matches;
  player.live = run.running;
  const wanted = address.read();
  if (wanted.speed !== undefined && SPEEDS.includes(wanted.speed)) player.speed = wanted.speed;
  player.slow = wanted.slow ?? false;
  grid.build();
  if (wanted.layer !== undefined && wanted.layer >= 1 && wanted.layer <= run.depth) open(wanted.layer);
  measure();
  prepare(run);
  if (wanted.step !== undefined) player.seek(Math.max(0, strips.time.frameOf(wanted.step)));
  else if (still.matches) player.seek(run.running ? Infinity : 0);
  else player.play();

  addEventListener("hashchange", () => {
    const there = address.read();
    if (there.step !== undefined) player.seek(strips.time.frameOf(there.step));
    if ((there.layer ?? null) !== detail.layer) open(there.layer ?? null);
  });

  say(run.running ? "live" : "ended", "");
  follow(run, (link, why) => {
    player.live = run.running && link !== "trouble";
    if (detail.layer === null) grid.build();
    measure();
    say(link, why);
    if (link === "ended") keepForSaving(save);
  });

  /**
   * @param {import("gammabeta/source.js").Link} link
   * @param {string} why
   */
  function say(link, why) {
    const newest = run.steps[run.length - 1];
    const live = newest === undefined ? "live" : `live · step ${newest}`;
    const text = link === "lost" ? "connection lost, trying again" : link === "trouble" ? why : run.running ? live : STATUS_WORDS[run.status] ?? run.status;
    setText(status, text);
    status.dataset.state = link === "live" && run.running ? "live" : link;
  }
}

/**
 * @param {string} kind
 * @param {string} name for those who cannot see it; its text if empty
 * @param {Node | string} content
 */
function button(kind, name, content) {
  const made = element("button", { type: "button", class: kind }, content);
  if (name) {
    made.setAttribute("aria-label", name);
    made.title = name;
  }
  return made;
}

/**
 * Fetch the file for "save" while the server exists: the server may end with the run.
 * @param {HTMLAnchorElement} save
 */
async function keepForSaving(save) {
  const response = await fetch(save.href).catch(() => null);
  if (!response?.ok) return;
  save.download = /filename="([^"]*)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "run.html";
  save.href = URL.createObjectURL(await response.blob());
}

/**
 * Show an icon on a button, unless it is already there.
 * @param {HTMLElement} target
 * @param {string} name
 */
function swap(target, name) {
  if (target.dataset.icon === name) return;
  target.dataset.icon = name;
  target.replaceChildren(icon(name));
}

const theme = storedTheme();
if (theme) setTheme(theme);
load().then(start, (error) => {
  const words = error instanceof Error ? error.message : String(error);
  document.getElementById("app")?.replaceChildren(element("p", { class: "message", role: "alert" }, `This run cannot be shown: ${words}`));
});
