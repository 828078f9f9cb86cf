// Draw one distribution into a box on the axis: its outline, its zones, its zeros, its spread.

/** @typedef {import("gammabeta/shape.js").Shape} Shape */
/** @typedef {import("gammabeta/reading.js").Reading} Reading */
/** @typedef {import("gammabeta/axis.js").Axis} Axis */
/** @typedef {import("gammabeta/theme.js").Palette} Palette */
/**
 * Where on a canvas a distribution is drawn. `foot` is left free below the base line, `head` above.
 * @typedef {{x: number, y: number, width: number, height: number, foot: number, head: number}} Box
 */

/**
 * Begin a path along a shape.
 * @param {CanvasRenderingContext2D} context
 * @param {Shape} shape
 * @param {Box} box
 * @param {boolean} closed
 * @param {number} [coarse] how many times fewer points than usual
 */
export function outline(context, shape, box, closed, coarse = 1) {
  const base = box.y + box.height - box.foot;
  const tall = box.height - box.foot - box.head;
  const stride = Math.max(1, Math.round((1.5 * shape.length) / box.width)) * coarse;
  context.beginPath();
  if (closed) context.moveTo(box.x, base);
  for (let i = 0; i < shape.length; i += stride) {
    const x = box.x + ((i + 0.5) / shape.length) * box.width;
    const y = base - (shape[i] ?? 0) * tall;
    if (i === 0 && !closed) context.moveTo(x, y);
    else context.lineTo(x, y);
  }
  if (closed) {
    context.lineTo(box.x + box.width, base);
    context.closePath();
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Shape} shape
 * @param {Box} box
 * @param {string} colour
 */
export function dashed(context, shape, box, colour) {
  outline(context, shape, box, false);
  context.setLineDash([3, 2]);
  context.lineWidth = 1;
  context.strokeStyle = colour;
  context.stroke();
  context.setLineDash([]);
}

/**
 * Shade where an activation is saturated.
 * @param {CanvasRenderingContext2D} context
 * @param {[number | null, number | null] | undefined} zone
 * @param {Axis} axis
 * @param {Box} box
 * @param {Palette} palette
 */
export function zones(context, zone, axis, box, palette) {
  if (!zone) return;
  const tall = box.height - box.foot;
  context.fillStyle = palette.zone;
  const [low, high] = zone;
  if (low !== null) context.fillRect(box.x, box.y, axis.position(low) * box.width, tall);
  if (high !== null) {
    const left = axis.position(high) * box.width;
    context.fillRect(box.x + left, box.y, box.width - left, tall);
  }
}

/**
 * Draw exact zeros as a pillar, as high as their share.
 * @param {CanvasRenderingContext2D} context
 * @param {Reading} signal
 * @param {Axis} axis
 * @param {Box} box
 * @param {string} colour
 */
export function pillar(context, signal, axis, box, colour) {
  const share = signal.total > 0 ? signal.zeros / signal.total : 0;
  if (share < 0.002) return;
  const tall = Math.min(1, share) * (box.height - box.foot - box.head);
  const wide = box.width > 60 ? 5 : 2;
  context.fillStyle = colour;
  context.fillRect(box.x + axis.position(0) * box.width - wide / 2, box.y + box.height - box.foot - tall, wide, tall);
}

/**
 * The mean's tick on the bar of ± 1 standard deviation, below the base line.
 * @param {CanvasRenderingContext2D} context
 * @param {Axis} axis
 * @param {Box} box
 * @param {number} mean
 * @param {number} std
 * @param {Palette} palette
 * @param {string} colour
 */
export function spread(context, axis, box, mean, std, palette, colour) {
  if (Number.isNaN(mean) || Number.isNaN(std)) return;
  const y = box.y + box.height - box.foot / 2 + 1;
  const left = box.x + axis.position(mean - std) * box.width;
  const right = box.x + axis.position(mean + std) * box.width;
  context.fillStyle = colour;
  context.fillRect(left, y - 1, Math.max(1, right - left), 2);
  context.fillStyle = palette.ink;
  context.fillRect(box.x + axis.position(mean) * box.width - 1, y - 3.5, 2, 7);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {CanvasTextAlign} align
 * @param {string} colour
 * @param {string} halo
 */
export function label(context, text, x, y, align, colour, halo) {
  context.textAlign = align;
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = halo;
  context.strokeText(text, x, y);
  context.fillStyle = colour;
  context.fillText(text, x, y);
}

/**
 * The ticks of the axis, below a box. A label that would touch an earlier one is omitted; its tick stays.
 * @param {CanvasRenderingContext2D} context
 * @param {Axis} axis
 * @param {{x: number, y: number, width: number}} at
 * @param {Palette} palette
 */
export function axisTicks(context, axis, { x: from, y, width }, palette) {
  context.fillStyle = palette.muted;
  context.font = "10px system-ui, sans-serif";
  context.textBaseline = "top";
  context.textAlign = "left";
  /** @type {[number, number][]} */
  const taken = [];
  for (const x of axis.ticks()) {
    const text = String(x).replace("-", "−");
    const wide = context.measureText(text).width;
    const at = axis.position(x) * width;
    const left = Math.min(width - wide, Math.max(0, at - wide / 2));
    context.fillRect(from + Math.min(width - 1, Math.max(0, at - 0.5)), y, 1, 3);
    if (taken.some(([a, b]) => left < b + 5 && left + wide > a - 5)) continue;
    taken.push([left, left + wide]);
    context.fillText(text, from + left, y + 5);
  }
}
