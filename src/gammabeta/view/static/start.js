// Build the page, and let the pointer, the keys and what arrives move it.

import * as address from "gammabeta/address.js";
import { button, element, icon, setText } from "gammabeta/dom.js";
import { follow } from "gammabeta/follow.js";
import { helpDialog } from "gammabeta/help.js";
import { listen } from "gammabeta/keys.js";
import { measure } from "gammabeta/measures.js";
import { Page } from "gammabeta/page.js";
import { SPEEDS } from "gammabeta/player.js";
import { pointer } from "gammabeta/pointer.js";
import { Run } from "gammabeta/run.js";
import { FEW } from "gammabeta/shapes.js";
import { Store } from "gammabeta/store.js";
import { isDark, setTheme } from "gammabeta/theme.js";
import { Tip } from "gammabeta/tip.js";

/** @typedef {import("gammabeta/source.js").Source} Source */

/** @type {Map<string, string>} */
const STATUS_WORDS = new Map([
  ["running", "live"],
  ["finished", ""],
  ["interrupted", "interrupted"],
  ["failed", "ended by an error"],
  ["killed", "the run was killed; this is what it recorded"],
  ["snapshot", "saved while it ran"],
]);

/**
 * @param {Source} from
 * @param {import("gammabeta/run.js").Snapshot} snapshot
 * @param {import("gammabeta/column.js").Block | null} std what is known of it
 */
export async function start(from, snapshot, std) {
  const run = new Run(snapshot);
  const store = new Store(from, run);
  if (std?.frames) store.keep("std", std);
  const small = run.length * run.probes.length <= FEW;
  const page = new Page(run, store);
  if (run.length) await Promise.all((from.near && small ? [...store.fields] : store.columns.has("std") ? [] : ["std"]).map((field) => store.load(field)));
  if (from.near && small) await store.shapes.prepare();
  show(page, from);
  if (!from.near && small) store.shapes.prepare().catch(() => undefined);
}

/**
 * @param {Page} page
 * @param {Source} from
 */
function show(page, from) {
  const { run, store, clock, player, strips, detail } = page;
  const tip = new Tip();
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const status = element("span", { class: "status", role: "status" });
  const themeButton = button("icon", "Switch between light and dark", icon("theme"));
  const helpButton = button("icon", "Keys and help", "?");
  const save = element("a", { class: "icon button", href: "./run.html", download: "", "aria-label": "Save as one HTML file", title: "Save as one HTML file" }, icon("save"));
  const head = element("header", { class: "top" }, element("span", { class: "mark" }, "gammabeta"), element("h1", {}, run.title), status, element("span", { class: "space" }), helpButton, themeButton, ...(from.near ? [] : [save]));
  const app = document.getElementById("app");
  if (!app) return;
  page.build();
  let help = helpDialog(page.few);
  app.replaceChildren(head, page.main, help);
  document.title = `${run.title} · gammabeta`;
  const showHelp = () => {
    const fresh = helpDialog(page.few);
    help.replaceWith(fresh);
    help = fresh;
    help.showModal();
  };

  let noted = 0;
  const note = () => {
    noted = 0;
    const here = clock.step(player.moment.frame);
    const row = detail.row;
    address.write({
      run: run.title,
      ...(player.playing || here === undefined ? {} : { step: here }),
      speed: player.speed,
      slow: player.slow,
      time: clock.mode === "time",
      ...(strips.measure === measure(page.few ? "enters" : "std") ? {} : { map: strips.measure.key }),
      ...(row === null ? {} : { layer: page.few ? String(row.index + 1) : row.title }),
    });
  };
  // Browsers are slow to change an address: not at every frame of a drag.
  let dragging = false;
  let since = 0;
  let times = 0;
  page.remember = () => {
    if (performance.now() - since > 1000) [since, times] = [performance.now(), 0];
    times += 1;
    if (!dragging && times < 6) note();
    else if (!noted) noted = setTimeout(note, 250);
  };
  addEventListener("pointerdown", () => (dragging = true), true);
  for (const end of ["pointerup", "pointercancel"]) {
    addEventListener(end, () => {
      dragging = false;
      note();
    });
  }
  player.listeners.add(() => page.draw());
  player.listeners.add(() => page.settle());
  store.listeners.add(() => page.draw());
  helpButton.addEventListener("click", showHelp);
  const turn = () => {
    setTheme(isDark() ? "light" : "dark");
    page.recolour();
  };
  themeButton.addEventListener("click", turn);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.recolour());
  still.addEventListener("change", () => (player.still = still.matches));
  let size = "";
  new ResizeObserver(() => {
    const now = `${app.clientWidth} ${innerHeight}`;
    if (now !== size) page.measure();
    size = now;
  }).observe(app);
  addEventListener("resize", () => page.measure());
  listen({
    player,
    open: (number) => {
      const row = page.few || number <= 9 ? run.rows.all[number - 1] : undefined;
      if (row) page.open(row);
      return row !== undefined;
    },
    close: () => page.open(null),
    pin: () => page.pin(),
    slow: () => player.setSlow(!player.slow),
    help: showHelp,
    search: () => {
      if (page.few) return false;
      if (detail.row) page.open(null);
      page.layers.search.focus();
      return true;
    },
    enter: () => {
      if (page.few || detail.row) return false;
      page.layers.table.focus(page.layers.table.active);
      return true;
    },
    next: (by) => page.move(by),
    theme: turn,
  });
  pointer(page, tip);

  // Begin at the address's position; a few layers play, many show where the run has come to.
  player.still = still.matches;
  player.live = run.running;
  const wanted = address.read();
  if (wanted.speed !== undefined && SPEEDS.includes(wanted.speed)) player.speed = wanted.speed;
  player.slow = wanted.slow ?? false;
  if (wanted.map) {
    strips.measure = measure(wanted.map);
    page.undecided = false;
  }
  if (wanted.time && clock.timed) clock.setMode("time");
  strips.build(page.few);
  go(page, wanted);
  page.measure();
  if (wanted.step === undefined) {
    if (!page.few) player.seek(Infinity);
    else if (still.matches) player.seek(run.running ? Infinity : 0);
    else player.play();
    if (!page.few && run.running) player.play();
  }
  addEventListener("hashchange", () => go(page, address.read()));

  performance.mark("first picture");
  say(run.running ? "live" : "ended", "");
  if (!from.near && run.running) {
    follow(page, from, (link, why) => {
      player.live = run.running && link !== "trouble";
      say(link, why);
      if (link === "ended") keepForSaving(save);
    });
  }

  /**
   * @param {import("gammabeta/source.js").Link} link
   * @param {string} why
   */
  function say(link, why) {
    const newest = run.frames.step.reduce((most, step) => Math.max(most, step), 0);
    const live = newest ? `live · step ${newest}` : "live";
    const text = link === "lost" ? "connection lost, trying again" : link === "trouble" ? why : run.running ? live : STATUS_WORDS.get(run.status) ?? run.status;
    setText(status, text);
    status.dataset.state = link === "live" && run.running ? "live" : link;
  }
}

/**
 * Go where an address points.
 * @param {Page} page
 * @param {address.Address} there
 */
function go(page, there) {
  const { clock, player, run, strips } = page;
  if (there.step !== undefined) {
    const front = strips.front;
    player.seek(Math.max(0, clock.mode === "time" ? clock.tickOfStep(there.step, front) : clock.between(there.step)));
  }
  const row = there.layer === undefined ? null : run.rows.all.find((each) => each.title === there.layer) ?? run.rows.all[Number(there.layer) - 1] ?? null;
  if (row !== page.detail.row) page.open(row);
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
