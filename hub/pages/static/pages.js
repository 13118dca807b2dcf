// Keeps a page that shows something under way up to date: each part that says `data-live` is asked for again until it does not.
// The database is the truth, and a question a second passes every proxy. Without this script the page shows how things stood.
"use strict";
(() => {
  const SLOWEST = 30000; // milliseconds between two questions when nobody answers
  const LATE = 20000; // milliseconds after which an answer does not come any more
  const MOST = 2 << 20; // characters of output that a page that follows keeps

  const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const shown = () =>
    new Promise((resolve) => {
      if (!document.hidden) return resolve();
      document.addEventListener("visibilitychange", resolve, { once: true });
    });
  const find = (name) => document.querySelector(`[data-part="${name}"][data-live]`);
  const silent = new Set();

  function address(part) {
    const url = new URL(location.href);
    url.hash = "";
    url.searchParams.set("part", part.dataset.part);
    if (part.dataset.part === "output") {
      url.searchParams.set("attempt", part.dataset.attempt);
      url.searchParams.set("stream", part.dataset.stream);
      url.searchParams.set("offset", part.dataset.next);
    } else if (part.dataset.seen) {
      url.searchParams.set("seen", part.dataset.seen);
    }
    return url;
  }

  async function ask(part) {
    const answer = await fetch(address(part), { redirect: "manual", signal: AbortSignal.timeout(LATE) });
    if (answer.type === "opaqueredirect") return location.reload(); // the token is no good any more
    if (answer.status === 204) return null;
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    return page.querySelector(`[data-part="${part.dataset.part}"]`);
  }

  // Put in place what is new; whoever reads, marks or walks by keys there is not disturbed.
  function replace(part, fresh) {
    const marked = getSelection();
    if (!marked.isCollapsed && part.contains(marked.anchorNode)) return false;
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    if (active?.matches("input") && active.value !== active.defaultValue) return false;
    for (const old of part.querySelectorAll("details[data-key]")) {
      const same = fresh.querySelector(`details[data-key="${CSS.escape(old.dataset.key)}"]`);
      if (same) same.open = old.open;
    }
    const link = active?.getAttribute("href");
    part.replaceWith(fresh);
    const same = active?.id ? `#${CSS.escape(active.id)}` : link ? `a[href="${CSS.escape(link)}"]` : null;
    if (same) fresh.querySelector(same)?.focus({ preventScroll: true });
    if (fresh.dataset.title) document.title = fresh.dataset.title;
    const said = document.getElementById("said");
    if (fresh.dataset.say && said.textContent !== fresh.dataset.say) said.textContent = fresh.dataset.say;
    return true;
  }

  // Output only grows: what is new goes behind what is there, and the end stays in sight of who stands there.
  function append(part, fresh) {
    const place = document.getElementById("place");
    const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 40;
    part.append(...fresh.childNodes);
    while (part.textContent.length > MOST && part.childNodes.length > 1) part.firstChild.remove();
    Object.assign(part.dataset, { next: fresh.dataset.next, size: fresh.dataset.size });
    if (!("live" in fresh.dataset)) part.removeAttribute("data-live");
    if (place) place.textContent = `${Number(part.dataset.size).toLocaleString("en")} bytes so far`;
    if (atEnd) scrollTo({ top: document.documentElement.scrollHeight });
    return true;
  }

  async function follow(name) {
    for (let wait = 0; ; ) {
      let part = find(name);
      if (!part) return;
      const every = 1000 * Number(part.dataset.every);
      await pause(Math.max(wait, every));
      await shown();
      part = find(name);
      if (!part) return;
      try {
        const fresh = await ask(part);
        if (fresh) (name === "output" ? append : replace)(part, fresh);
        wait = 0;
        silent.delete(name);
      } catch {
        wait = Math.min(SLOWEST, 2 * (wait || every));
        silent.add(name);
      }
      document.getElementById("stale").hidden = !silent.size;
    }
  }

  for (const part of document.querySelectorAll("[data-part][data-live]")) follow(part.dataset.part);
})();
