// Begin: fetch the run while the rest of the page is loaded.

import { source } from "gammabeta/source.js";
import { setTheme, storedTheme } from "gammabeta/theme.js";

const theme = storedTheme();
if (theme) setTheme(theme);

async function begin() {
  const from = source();
  // The first picture needs the index and one column.
  const page = import("gammabeta/start.js");
  const std = from.near ? null : from.column("std", 0).catch(() => null);
  const snapshot = await from.index().finally(() => page);
  await (await page).start(from, snapshot, await std);
}

begin().catch((error) => {
  const words = error instanceof Error ? error.message : String(error);
  const message = document.createElement("p");
  message.className = "message";
  message.setAttribute("role", "alert");
  message.textContent = `This run cannot be shown: ${words}`;
  document.getElementById("app")?.replaceChildren(message);
});
