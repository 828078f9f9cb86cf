// Find rows by a part of their name, or by a pattern such as layer3.*.conv2.

/**
 * A function that says whether a name matches. A pattern with *, ? or […] is a glob of the whole name,
 * or of what follows a dot in it; anything else is a part of the name. Case does not matter.
 * @param {string} query
 * @returns {((name: string) => boolean) | null} null if the query is empty
 */
export function matcher(query) {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return null;
  if (!/[*?[]/.test(wanted)) return (name) => name.toLowerCase().includes(wanted);
  let pattern = "";
  for (let i = 0; i < wanted.length; i++) {
    const sign = wanted.charAt(i);
    const close = sign === "[" ? wanted.indexOf("]", i + 1) : -1;
    if (sign === "*") pattern += ".*";
    else if (sign === "?") pattern += ".";
    else if (close > i + 1) {
      pattern += `[${wanted.slice(i + 1, close).replace(/[\\\]^]/g, "\\$&").replace(/^!/, "^")}]`;
      i = close;
    } else pattern += sign.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  }
  try {
    const whole = new RegExp(`^(.*\\.)?${pattern}$`);
    return (name) => whole.test(name.toLowerCase());
  } catch {
    return (name) => name.toLowerCase().includes(wanted); // such as [z-a]
  }
}
