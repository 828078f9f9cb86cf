// The URL's hash holds the run, the playhead, the speed and the open layer, so that a link shows what its
// sender saw.

/** @typedef {{run?: string, step?: number, speed?: number, slow?: boolean, layer?: string, map?: string, time?: boolean}} Address */

/** @returns {Address} */
export function read() {
  const values = new URLSearchParams(location.hash.slice(1));
  /** @type {Address} */
  const address = {};
  for (const name of /** @type {const} */ (["run", "layer", "map"])) {
    const value = values.get(name);
    if (value) address[name] = value;
  }
  for (const name of /** @type {const} */ (["step", "speed"])) {
    const value = Number(values.get(name));
    if (values.has(name) && Number.isFinite(value)) address[name] = value;
  }
  if (values.has("slow")) address.slow = true;
  if (values.get("axis") === "time") address.time = true;
  return address;
}

/** @param {Address} address */
export function write(address) {
  const values = new URLSearchParams();
  if (address.run) values.set("run", address.run);
  if (address.step !== undefined) values.set("step", String(address.step));
  if (address.speed !== undefined && address.speed !== 1) values.set("speed", String(address.speed));
  if (address.slow) values.set("slow", "1");
  if (address.time) values.set("axis", "time");
  if (address.map) values.set("map", address.map);
  if (address.layer !== undefined) values.set("layer", address.layer);
  const hash = `#${values}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}
