// Load a run: from this file, or from the server of this page.

import { Run } from "gammabeta/run.js";

/** @typedef {import("gammabeta/run.js").Increment} Increment */
/** @typedef {"live" | "lost" | "ended" | "trouble"} Link */

/** @returns {Promise<Run>} */
export async function load() {
  const embedded = document.getElementById("run");
  if (embedded) return new Run(await unpack(embedded.textContent ?? ""));
  const response = await fetch("./run.json");
  const data = await response.json();
  if (!response.ok) throw new Error(data.error ?? `the server answered ${response.status}`);
  return new Run(data);
}

/** @param {string} text deflated JSON in base64 */
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/**
 * Listen for what is recorded from now on. The browser reconnects by itself.
 * @param {Run} run
 * @param {(link: Link, words: string) => void} changed
 */
export function follow(run, changed) {
  if (document.getElementById("run") || !run.running) return;
  const { frame, scalar } = run.cursor;
  const events = new EventSource(`./events?after=${frame}:${scalar}`);
  events.onopen = () => changed("live", "");
  events.onmessage = (event) => {
    const news = /** @type {Increment} */ (JSON.parse(event.data));
    // After a reconnection the same rows may come twice: only newer ones are added.
    if (news.cursor.frame === run.cursor.frame && news.cursor.scalar === run.cursor.scalar) return;
    run.add(news);
    changed("live", "");
  };
  events.addEventListener("end", (event) => {
    run.status = JSON.parse(event.data);
    // Close a little later: a server that ends with the run waits as long as a page listens.
    setTimeout(() => events.close(), 400);
    events.onerror = () => events.close();
    changed("ended", "");
  });
  events.addEventListener("trouble", (event) => {
    events.close();
    changed("trouble", JSON.parse(event.data));
  });
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) changed("trouble", "the server has closed the connection");
    else changed("lost", "");
  };
}
