// The numbers of a run, fetched when they are asked for and kept within bounds.

import { Column } from "gammabeta/column.js";
import { Shapes } from "gammabeta/shapes.js";

/** @typedef {import("gammabeta/run.js").Run} Run */
/** @typedef {import("gammabeta/source.js").Source} Source */

/** Columns that are kept, in bytes. */
const KEPT = 400e6;
/** Columns that were used within this time before the last drawing are extended when frames arrive, in milliseconds. */
const FRESH = 5000;
/** Time after which a request that failed is repeated, in milliseconds. */
const RETRY = 3000;

export class Store {
  /**
   * @param {Source} source
   * @param {Run} run
   */
  constructor(source, run) {
    this.source = source;
    this.run = run;
    this.shapes = new Shapes(source, run, () => this.changed());
    /** @type {Map<string, Column>} */
    this.columns = new Map();
    /** @type {Map<string, Promise<Column>>} */
    this.loading = new Map();
    /** @type {Map<string, number[] | null>} */
    this.channelValues = new Map();
    /** When a request failed, by its key: it is not repeated at once. @type {Map<string, number>} */
    this.failed = new Map();
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    this.announced = false;
    /** The time of the last drawing, in milliseconds. */
    this.now = performance.now();
    /** Fields of which there is a column. */
    this.fields = new Set([...run.fields.map((field) => field.name), "count", "sampled", "stderr", "rms"]);
    /** Increases when a column has changed. */
    this.version = 0;
  }

  /** Tell the listeners, once a frame, that something has arrived. */
  changed() {
    if (this.announced) return;
    this.announced = true;
    requestAnimationFrame(() => {
      this.announced = false;
      for (const listener of this.listeners) listener();
    });
  }

  /**
   * A column if it is here; fetch it, or its newest frames, if not.
   * @param {string} field
   * @returns {Column | undefined}
   */
  column(field) {
    const column = this.columns.get(field);
    if (column) column.used = this.now;
    if (!this.fields.has(field)) return undefined;
    if ((!column || column.frames < this.run.length) && !this.loading.has(field) && !this.rests(field) && this.run.length > 0) {
      this.load(field).then(
        () => this.changed(),
        () => this.failed.set(field, performance.now()), // the link says what is wrong
      );
    }
    return column;
  }

  /** Whether a request has failed shortly before. @param {string} key */
  rests(key) {
    return performance.now() - (this.failed.get(key) ?? -Infinity) < RETRY;
  }

  /**
   * @param {string} field
   * @returns {Promise<Column>} with every frame that the source has
   */
  load(field) {
    const pending = this.loading.get(field);
    if (pending) return pending;
    const column = this.columns.get(field);
    const promise = this.source
      .column(field, column?.frames ?? 0)
      .then((block) => this.keep(field, block))
      .finally(() => this.loading.delete(field));
    this.loading.set(field, promise);
    return promise;
  }

  /**
   * @param {string} field
   * @param {import("gammabeta/column.js").Block} block its newest frames
   */
  keep(field, block) {
    const column = this.columns.get(field) ?? new Column();
    column.add(block);
    column.used = performance.now();
    this.columns.set(field, column);
    this.version += 1;
    this.forget();
    return column;
  }

  /** Fetch the newest frames of the columns in use. */
  async extend() {
    const since = this.now - FRESH;
    const used = [...this.columns].filter(([, column]) => column.used > since).map(([field]) => field);
    await Promise.all(used.map((field) => this.load(field)));
  }

  /** Drop the columns that were not used for longest, until the others fit. */
  forget() {
    const oldest = [...this.columns].sort((a, b) => a[1].used - b[1].used);
    let total = oldest.reduce((sum, [, column]) => sum + column.bytes, 0);
    for (const [field, column] of oldest.slice(0, -1)) {
      if (total <= KEPT) return;
      total -= column.bytes;
      this.columns.delete(field);
    }
  }

  /**
   * A number, NaN if it was not measured or is not here yet.
   * @param {string} field
   * @param {number} frame
   * @param {number} probe
   */
  get(field, frame, probe) {
    return this.column(field)?.at(frame, probe) ?? NaN;
  }

  /**
   * The values of a probe's channels at a step; undefined until they are here.
   * @param {number} probe
   * @param {number} step
   */
  channels(probe, step) {
    const key = `${probe} ${step}`;
    const known = this.channelValues.get(key);
    if (known !== undefined || this.channelValues.has(key)) return known;
    if (this.channelValues.size > 2000) this.channelValues.clear();
    if (this.loading.has(key) || this.rests(key)) return undefined;
    const promise = this.source.channels(probe, step);
    this.loading.set(key, /** @type {Promise<any>} */ (promise));
    promise.then(
      (values) => {
        this.loading.delete(key);
        this.channelValues.set(key, values);
        this.changed();
      },
      () => {
        this.loading.delete(key);
        this.failed.set(key, performance.now());
      },
    );
    return undefined;
  }
}
