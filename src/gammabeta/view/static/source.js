// Where a run's data comes from: the server of this page, or this file. Both answer the same questions.

import { Embedded } from "gammabeta/embedded.js";
import { Server } from "gammabeta/server.js";

/** @typedef {import("gammabeta/run.js").Snapshot} Snapshot */
/** @typedef {import("gammabeta/run.js").Increment} Increment */
/** @typedef {"live" | "lost" | "ended" | "trouble"} Link */
/** @typedef {(link: Link, words: string) => void} Said */
/**
 * @typedef {object} Source
 * @property {() => Promise<Snapshot>} index everything but the numbers
 * @property {(field: string, from: number) => Promise<import("gammabeta/column.js").Block>} column one statistic of the frames `from` on
 * @property {(frames: number[], probes: number[]) => Promise<Uint8Array>} shapes bins, frame by frame, probe by probe
 * @property {(probe: number, step: number) => Promise<number[] | null>} channels
 * @property {(cursor: string, received: (news: Increment) => void, ended: (status: string) => void, said: Said) => void} follow
 * @property {boolean} near whether the data is in this page already
 */

/** @returns {Source} */
export function source() {
  const embedded = document.getElementById("run");
  return embedded ? new Embedded(embedded.textContent ?? "") : new Server();
}
