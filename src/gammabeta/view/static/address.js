// The URL's hash holds the run, the playhead, the speed and the open layer, so that a link shows what its
// sender saw.

/** @typedef {{run?: string, step?: number, speed?: number, slow?: boolean, layer?: number}} Address */

/** @returns {Address} */
export function read() {
  const values = new URLSearchParams(location.hash.slice(1));
  /** @type {Address} */
  const address = {};
  const run = values.get("run");
  if (run) address.run = run;
  for (const name of /** @type {const} */ (["step", "speed", "layer"])) {
    const value = Number(values.get(name));
    if (values.has(name) && Number.isFinite(value)) address[name] = value;
  }
  if (values.has("slow")) address.slow = true;
  return address;
}

/** @param {Address} address */
export function write(address) {
  const values = new URLSearchParams();
  if (address.run) values.set("run", address.run);
  if (address.step !== undefined) values.set("step", String(address.step));
  if (address.speed !== undefined && address.speed !== 1) values.set("speed", String(address.speed));
  if (address.slow) values.set("slow", "1");
  if (address.layer !== undefined) values.set("layer", String(address.layer));
  const hash = `#${values}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}
