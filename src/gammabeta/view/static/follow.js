// A run that is being recorded: take what arrives.

/** @typedef {import("gammabeta/page.js").Page} Page */
/** @typedef {import("gammabeta/source.js").Source} Source */

/**
 * Add what is recorded from now on. Its numbers are fetched before its frames are shown.
 * @param {Page} page
 * @param {Source} from
 * @param {import("gammabeta/source.js").Said} said
 */
export function follow(page, from, said) {
  const { run, store, clock, player } = page;
  /** @type {import("gammabeta/run.js").Increment[]} */
  const waiting = [];
  let busy = false;
  let end = "";
  async function take() {
    if (busy) return;
    busy = true;
    while (waiting.length) {
      const some = waiting.splice(0);
      await store.extend().catch(() => undefined); // they are asked for again when they are drawn
      const at = clock.at[player.moment.frame];
      const late = player.position >= player.end;
      // After a reconnection the same rows may come twice: only newer ones are added.
      for (const news of some) if (news.cursor !== run.cursor) run.add(news);
      clock.rebuild();
      if (at !== undefined && !late) player.position = Math.max(0, clock.tickAt(at));
      page.build();
      said("live", "");
    }
    busy = false;
    if (!end) return;
    run.status = end;
    said("ended", "");
    page.build();
  }
  from.follow(
    run.cursor,
    (news) => {
      waiting.push(news);
      take();
    },
    (state) => {
      end = state;
      take();
    },
    said,
  );
}
