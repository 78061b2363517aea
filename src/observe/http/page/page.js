// Shows /status and /readyz of this daemon, read again each second while the page is looked at. What the daemon says is
// put in as text and never as markup: reasons quote what servers answered.
"use strict";

const EVERY_MS = 1000;
let before = null;

const element = (id) => document.getElementById(id);
const count = (value) => value.toLocaleString("en");

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

function ago(unixMs, now) {
  if (unixMs === null || unixMs === undefined) return "–";
  const seconds = Math.max(0, Math.round((now - unixMs) / 1000));
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  return new Date(unixMs).toISOString().replace(/\.\d+Z$/, "Z");
}

const isCapture = (route) => route.kind === "capture";
const done = (route) => {
  if (isCapture(route)) return route.counts.stored;
  return route.invalidate ? route.invalidate.cleared + route.invalidate.written : route.broadcast.published;
};
const deadLetters = (route) => (isCapture(route) ? route.counts : route.invalidate ?? route.broadcast).rejected;
const key = (route) => `${route.kind} ${route.route}`;

function role(route) {
  if (route.state === "standby") return "standby";
  if (!isCapture(route)) return route.state === "live" ? "active" : "–";
  if (!route.leader) return "–";
  return route.other_instances > 0 ? "active, with standby" : "active";
}

function rate(route, now) {
  const known = before && before.done.get(key(route));
  const since = before && (now - before.at) / 1000;
  if (known === undefined || known === null || !since || done(route) < known) return "–";
  return count(Math.round((done(route) - known) / since));
}

function gaps(route, now) {
  if (!isCapture(route)) return "–";
  if (route.gap_open_since_unix_ms !== null) return `${count(route.counts.gaps)}, one open`;
  if (route.counts.last_gap_unix_ms === null) return count(route.counts.gaps);
  return `${count(route.counts.gaps)}, the last ${ago(route.counts.last_gap_unix_ms, now)}`;
}

// Of an invalidation: how far it is behind, and how its cache is.
function cache(route, caches) {
  if (!route.invalidate) return "";
  const parts = [];
  if (route.invalidate.behind_ms !== null) parts.push(`behind ${count(route.invalidate.behind_ms)} ms`);
  parts.push(`refused ${count(route.invalidate.fills_refused)}`);
  const { written, kept } = route.invalidate;
  if (written + kept > 0) parts.push(`written ${count(written)}, kept ${count(kept)}`);
  const found = caches[route.destination.server];
  if (found && found.error !== null) parts.push(`cache unknown: ${found.error}`);
  else if (found && found.read_unix_ms !== null) {
    const lately = found.lately;
    const lookups = lately ? lately.hits + lately.misses : 0;
    if (lookups > 0) parts.push(`cache hits ${((lately.hits / lookups) * 100).toFixed(1)} %`);
    const limit = found.memory_limit_bytes > 0 ? ` of ${bytes(found.memory_limit_bytes)}` : "";
    parts.push(`${bytes(found.memory_bytes)}${limit} ${found.policy}`);
    if (lately && lately.over_ms > 0) parts.push(`evicted ${Math.round((lately.evicted / lately.over_ms) * 1000)}/s`);
  }
  return parts.join(", ");
}

function cell(row, text, name) {
  const made = row.insertCell();
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function show(status, readiness) {
  const now = Date.now();
  const rows = status.routes.map((route) => {
    const ready = readiness.routes.find((found) => found.route === route.route);
    const reasons = ready ? ready.reasons : [];
    const row = document.createElement("tr");
    row.dataset.route = route.route;
    const name = cell(row, route.route);
    const what = document.createElement("div");
    what.className = "reason";
    what.textContent = `${route.kind}, ${route.source.server} → ${route.destination.server}`;
    name.append(what);
    const of = document.createElement("div");
    of.className = "reason";
    of.textContent = cache(route, status.caches || {});
    if (of.textContent) name.append(of);
    const bad = route.state === "blocked" || route.state === "stopped";
    const mood = route.state === "disabled" ? "" : reasons.length === 0 ? "good" : bad ? "bad" : "warn";
    const state = cell(row, route.state, mood);
    for (const reason of reasons) {
      const line = document.createElement("div");
      line.className = "reason";
      line.textContent = reason;
      state.append(line);
    }
    cell(row, role(route));
    cell(row, count(done(route)), "number");
    cell(row, rate(route, now), "number");
    cell(row, isCapture(route) ? count(route.counts.buffered) : "–", "number");
    cell(row, isCapture(route) ? bytes(route.spool_bytes) : "–", "number");
    cell(row, gaps(route, now), "number");
    cell(row, count(deadLetters(route)), "number");
    cell(row, ago(route.last_progress_unix_ms, now));
    return row;
  });
  element("routes").replaceChildren(...rows);

  const ready = readiness.routes.filter((route) => route.ready).length;
  const disabled = status.routes.filter((route) => route.state === "disabled").length;
  const off = disabled > 0 ? `, ${disabled} disabled` : "";
  element("summary").textContent = `${ready} of ${readiness.routes.length} routes ready${off}`;
  element("summary").className = readiness.ready ? "good" : "warn";
  const since = new Date(status.started_unix_ms).toISOString().replace(/\.\d+Z$/, "Z");
  element("about").textContent = `${status.version}, instance ${status.instance}, since ${since}, ${status.configuration}`;

  const notices = [...(readiness.reasons || [])];
  if (status.daemon.reload_failed) {
    const at = ago(status.daemon.reload_failed.at_unix_ms, now);
    notices.push(`The last reload failed (${at}): the new configuration is not valid. The previous one stays in use. Run tidegate check.`);
  }
  element("notices").replaceChildren(...notices.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  before = { at: now, done: new Map(status.routes.map((route) => [key(route), done(route)])) };
}

async function read() {
  if (!document.hidden) {
    try {
      const [status, readiness] = await Promise.all(
        ["status", "readyz"].map(async (path) => (await fetch(path, { cache: "no-store" })).json()),
      );
      show(status, readiness);
    } catch (error) {
      before = null;
      element("summary").textContent = `No answer from the daemon: ${error.message}`;
      element("summary").className = "bad";
    }
  }
  setTimeout(read, EVERY_MS);
}

read();
