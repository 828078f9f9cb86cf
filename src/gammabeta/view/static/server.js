// A run that the server of this page has, and what it records from now on.

/** @typedef {import("gammabeta/source.js").Source} Source */

/** @implements {Source} */
export class Server {
  near = false;

  async index() {
    const response = await fetch("./run.json");
    const data = await response.json();
    if (!response.ok) throw new Error(data.error ?? `the server answered ${response.status}`);
    return data;
  }

  /**
   * @param {string} field
   * @param {number} from
   */
  async column(field, from) {
    const { frames, probes, body } = await matrix(`./column/${encodeURIComponent(field)}.bin?from=${from}`);
    return { frames, probes, values: new Float32Array(body.buffer, body.byteOffset, frames * probes) };
  }

  /**
   * @param {number[]} frames
   * @param {number[]} probes
   */
  async shapes(frames, probes) {
    return (await matrix(`./shapes.bin?frames=${ranges(frames)}&probes=${ranges(probes)}`)).body;
  }

  /**
   * @param {number} probe
   * @param {number} step
   * @returns {Promise<number[] | null>}
   */
  async channels(probe, step) {
    const response = await fetch(`./channels.json?probe=${probe}&step=${step}`);
    return response.ok ? (await response.json()).values : null;
  }

  /** @type {Source["follow"]} The browser reconnects by itself. */
  follow(cursor, received, ended, said) {
    const events = new EventSource(`./events?after=${encodeURIComponent(cursor)}`);
    events.onopen = () => said("live", "");
    events.onmessage = (event) => received(JSON.parse(event.data));
    events.addEventListener("end", (event) => {
      // Close a little later: a server that ends with the run waits as long as a page listens.
      setTimeout(() => events.close(), 400);
      events.onerror = () => events.close();
      ended(JSON.parse(event.data));
    });
    events.addEventListener("trouble", (event) => {
      events.close();
      said("trouble", JSON.parse(event.data));
    });
    events.onerror = () => {
      if (events.readyState === EventSource.CLOSED) said("trouble", "the server has closed the connection");
      else said("lost", "");
    };
  }
}

/**
 * Two numbers and what follows them.
 * @param {string} url
 */
async function matrix(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status}`);
  const buffer = await response.arrayBuffer();
  const [frames = 0, probes = 0] = new Uint32Array(buffer, 0, 2);
  return { frames, probes, body: new Uint8Array(buffer, 8) };
}

/**
 * Numbers as the server reads them: runs of neighbours as "first-last".
 * @param {number[]} numbers ascending
 */
function ranges(numbers) {
  const parts = [];
  for (let i = 0; i < numbers.length; ) {
    let j = i;
    while (numbers[j + 1] === (numbers[j] ?? 0) + 1) j++;
    parts.push(i === j ? `${numbers[i]}` : `${numbers[i]}-${numbers[j]}`);
    i = j + 1;
  }
  return parts.join(",");
}
