"use strict";
// Everything that comes from nodes is put in as text, never as HTML.
const by = (id) => document.getElementById(id);
const PAGE = 60;
const SHOWN_MAX = 40;
const DAY_MS = 86_400_000;
const SOON_DAYS = 30;
const view = { versions: [], news: [], run: null, rows: null, offset: 0, skew_ms: 0, loading: false, again: false, asked: 0 };

const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error || answer.statusText), { answered: true });
  const told = Date.parse(answer.headers.get("date") || "");
  // This machine's clock may be another one than the coordinator's.
  if (told) view.skew_ms = Math.abs(told - Date.now()) > 3000 ? told - Date.now() : 0;
  return body;
}

function text(id, value) { by(id).textContent = value; }

function items(id, texts) {
  by(id).replaceChildren(...texts.map((told) => {
    const item = document.createElement("li");
    item.textContent = told.text ?? told;
    if (told.mark) item.className = told.mark;
    return item;
  }));
}

// A device's own words may end with a number: their count stands in front.
const counted = (counts) => Object.entries(counts).map(([what, count]) =>
  /\d$/.test(what) ? `${number.format(count)} x ${what}` : `${what.replaceAll("_", " ")} ${number.format(count)}`).join(", ");

const named = (count, noun) => count === 1 ? noun : `${noun}s`;
const several = (count, noun) => `${number.format(count)} ${named(count, noun)}`;

function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129_600) return `${Math.round(s / 3600)} h`;
  return several(Math.round(s / 86_400), "day");
}

function showSummary(summary) {
  const waiting = summary.waiting;
  text("task", summary.task || "fedmq");
  document.title = `${summary.task || "fedmq"}: version ${summary.head ?? "–"}`;
  text("headline", waiting.sentence.charAt(0).toUpperCase() + waiting.sentence.slice(1));
  const badge = by("state");
  const state = waiting.over ? "over" : !waiting.running ? "stopped" : waiting.connected ? "running" : "away";
  badge.className = `badge ${state === "away" ? "stopped" : state}`;
  badge.textContent = { over: "the run is over", running: "running", away: "not connected", stopped: "no coordinator runs" }[state];
  showFigures(summary);
  const incidents = Object.entries(summary.incidents);
  by("incidents-section").hidden = !incidents.length;
  items("incidents", incidents.slice(0, SHOWN_MAX).map(([sender, kinds]) => `${sender}: ${counted(kinds)}`));
  items("remedies", summary.remedies);
  items("notes", waiting.sites.concat(summary.notes));
  text("counters", Object.keys(summary.counters).length ? `Since its coordinator's start: ${counted(summary.counters)}` : "");
  showCertificates(Object.entries(summary.certificates));
}

function showFigures(summary) {
  const waiting = summary.waiting;
  text("version", summary.head === null ? "–" : number.format(summary.head));
  text("version-name", summary.versions_max ? `version of ${number.format(summary.versions_max)}` : "version");
  const progress = by("progress");
  progress.hidden = !summary.versions_max;
  progress.max = summary.versions_max || 1;
  progress.value = Math.min(summary.head ?? 0, progress.max);
  const nodes = number.format(summary.nodes);
  text("online", waiting.connected ? `${number.format(waiting.online)} of ${nodes}` : nodes);
  text("online-name", `${named(summary.nodes, "node")}${waiting.connected ? " online" : ""}`);
  const by_status = summary.updates_by_status;
  text("updates", number.format(summary.updates));
  text("updates-name", by_status.stale || by_status.refused
    ? `${named(summary.updates, "update")}, ${number.format(by_status.stale)} stale, ${number.format(by_status.refused)} refused` : named(summary.updates, "update"));
  // Of a tiny model the messages around it are more than it is.
  const saved = summary.bytes_fp32 / summary.bytes_up;
  text("saved", summary.bytes_up && summary.bytes_fp32 ? `${short(saved < 1 ? 1 / saved : saved)} ×` : "–");
  text("saved-name", `${saved < 1 ? "more" : "fewer"} bytes up than fp32${summary.bytes_up ? `: ${bytes(summary.bytes_up)}` : ""}`);
  const part = summary.participation;
  text("fairness", part.fairness === null ? "–" : part.fairness.toFixed(2));
  text("staleness", by_status.applied ? part.staleness_mean.toFixed(2) : "–");
  if (summary.best) {
    text("best", measure(summary.best.metric, summary.best.value));
    text("best-name", `best ${summary.best.metric}, version ${number.format(summary.best.version)}`);
  }
  by("model-best-place").hidden = !summary.best;
}

function whenEnds(days) {
  if (days < -1) return `ended ${several(-days - 1, "day")} ago`;
  return days < 0 ? "has ended" : days ? `ends in ${several(days, "day")}` : "ends within a day";
}

function showCertificates(ends) {
  const rows = ends.map(([name, at]) => ({ name, days: Math.floor((Date.parse(at) - Date.now() - view.skew_ms) / DAY_MS) }));
  const soon = rows.filter((one) => one.days < SOON_DAYS);
  by("certificates-section").hidden = !rows.length;
  items("certificates", rows.slice(0, SHOWN_MAX).map(({ name, days }) => ({
    text: `${name}: ${whenEnds(days)}`, mark: days < SOON_DAYS ? "soon" : "",
  })));
  by("warnings").hidden = !soon.length;
  const ended = soon.filter((one) => one.days < 0).length;
  const coming = soon.length - ended;
  items("warnings", [
    ended && `${several(ended, "certificate")} ${ended === 1 ? "has" : "have"} ended, of ${soon[0].name}${ended > 1 ? " first" : ""}: coordinator renew`,
    coming && `${several(coming, "certificate")} ${coming === 1 ? "ends" : "end"} within ${SOON_DAYS} days, of ${soon[ended].name}${coming > 1 ? " first" : ""}: coordinator renew`,
  ].filter(Boolean));
}

// One after the other: what changes while a refresh is under way is fetched by the next.
async function refresh(summary) {
  if (view.loading) { view.again = summary; return; }
  view.loading = true;
  try {
    const same = view.run === summary.run;
    // The newest 50 again: an evaluation comes after its version.
    const kept = same ? view.versions.slice(0, Math.max(0, view.versions.length - 50)) : [];
    const after = kept.length ? kept[kept.length - 1].version : -1;
    view.run = summary.run;
    const [found, news] = await Promise.all([ask(`/api/v1/versions?after=${after}`), ask("/api/v1/news"), showNodes()]);
    view.versions = kept.concat(found.versions);
    view.news = news.news;
    showNews();
    drawAll(summary);
  } catch (error) {
    lost(error.message);
  } finally {
    view.loading = false;
    if (view.again) { const next = view.again; view.again = false; refresh(next); }
  }
}

const SAID = { lost: "was lost", left: "has left", back: "came back", restarted: "started again" };

function showNews() {
  by("news-section").hidden = !view.news.length;
  items("news", view.news.slice(-SHOWN_MAX).reverse().map((one) =>
    `${clock.format(new Date(one.at_ms))}, at version ${number.format(one.version)}: ${one.node} ${SAID[one.what]}`));
}

function mainMetrics() {
  const names = new Set();
  for (const one of view.versions) for (const name of Object.keys(one.metrics)) names.add(name);
  const first = ["accuracy", "loss", "nodes_accuracy", "nodes_loss"].filter((name) => names.has(name));
  return first.concat([...names].filter((name) => !first.includes(name)).sort()).slice(0, 4);
}

function drawAll(summary) {
  const rows = view.versions.filter((one) => one.version > 0);
  const names = mainMetrics();
  const last = [...rows].reverse().find((one) => names.length && (one.metrics[names[0]] ?? null) !== null);
  text("metric-name", names[0] ? names[0].replaceAll("_", " ") : "not evaluated");
  text("metric", last ? measure(names[0], last.metrics[names[0]]) : "–");
  text("curve-title", names.length ? names.map((name) => name.replaceAll("_", " ")).join(", ") : "Not evaluated");
  const marks = view.news.slice();
  if (summary.best) marks.push({ version: summary.best.version, what: "best", node: "" });
  by("charts").hidden = !rows.length;
  by("no-charts").hidden = rows.length > 0;
  if (rows.length) {
    drawCurve(names, rows, marks);
    drawBytes(rows, summary.updates ? summary.bytes_fp32 / summary.updates : 0);
    drawMembers(rows);
  }
  const signs = [...new Set(marks.map((one) => one.what))].map((what) => `${KINDS[what][1]} ${what === "best" ? "best version" : SAID[what]}`);
  by("marks").hidden = !signs.length;
  text("marks", signs.join("   "));
  document.documentElement.dataset.drawn = summary.number;
  performance.mark("fedmq-curve");
}

function happened(node) {
  const counts = { ...node.reasons };
  for (const [reason, count] of Object.entries(node.absences)) counts[reason] = (counts[reason] || 0) + count;
  if (node.restarts) counts.restarts = node.restarts;
  return counted(counts);
}

function paragraph(told, mark = "") {
  const made = document.createElement("p");
  made.textContent = told;
  if (mark) made.className = mark;
  return made;
}

const STATES = { online: ["●", "online", "online"], away: ["◌", "away", ""], offline: ["○", "left", ""], lost: ["▼", "lost", "lost"] };

function stateOf(node) {
  const heard = node.seen_ms === null ? "" : `, heard ${span(Date.now() + view.skew_ms - node.seen_ms)} ago`;
  if (node.state === null) return paragraph(node.seen_ms === null ? "when it was last heard is not known" : heard.slice(2));
  const [sign, word, mark] = STATES[node.state];
  if (node.state === "away") return paragraph(`${sign} ${word} until ${clock.format(new Date(node.back_ms))}${heard}`, mark);
  return paragraph(`${sign} ${word}${heard}`, mark);
}

function tile(node, applied) {
  const made = document.createElement("li");
  const name = document.createElement("h3");
  const isolated = document.createElement("bdi");
  isolated.textContent = node.id;
  name.title = node.id;
  name.append(isolated);
  const share = document.createElement("progress");
  share.max = Math.max(applied, 1);
  share.value = node.updates_applied;
  const part = applied ? `${Number(((100 * node.updates_applied) / applied).toPrecision(2))} % of the work` : "no work yet";
  share.setAttribute("aria-label", part);
  const dropped = [["stale", node.updates_stale], ["refused", node.updates_refused], ["waiting", node.updates_waiting]]
    .filter(([, count]) => count).map(([what, count]) => `, ${number.format(count)} ${what}`).join("");
  made.append(name, stateOf(node), share, paragraph(`${part}: ${number.format(node.updates_applied)} applied of ${number.format(node.asked)} asked${dropped}`),
    paragraph(`payload ${bytes(node.bytes_up)}, pulled ${bytes(node.bytes_down)}, ${node.staleness_mean.toFixed(1)} versions late`));
  const told = [node.device, node.release && `fedmq ${node.release}`, node.battery === null ? "" : `battery ${Math.round(100 * node.battery)} % at its start`].filter(Boolean).join(", ");
  if (told) made.append(paragraph(told));
  const trouble = happened(node);
  if (trouble) made.append(paragraph(trouble, "trouble"));
  return made;
}

async function showNodes() {
  const asked = ++view.asked;
  const found = await ask(`/api/v1/nodes?sort=${by("sort").value}&query=${encodeURIComponent(by("query").value)}&offset=${view.offset}&limit=${PAGE}`);
  if (asked !== view.asked) return;
  if (view.offset && view.offset >= found.total) { view.offset = 0; await showNodes(); return; }
  const applied = summary ? summary.updates_by_status.applied : 0;
  by("nodes").replaceChildren(...found.nodes.map((node) => tile(node, applied)));
  const first = found.total ? view.offset + 1 : 0;
  const more = found.total > found.nodes.length || view.offset;
  text("shown", more ? `${number.format(first)} to ${number.format(view.offset + found.nodes.length)} of ${number.format(found.total)}`
    : found.total ? several(found.total, "node") : by("query").value ? "no node has this in its name" : "no node yet");
  for (const id of ["previous", "next"]) by(id).hidden = !more;
  by("previous").disabled = view.offset === 0;
  by("next").disabled = view.offset + found.nodes.length >= found.total;
}

function lost(why, answered = false) {
  const badge = by("state");
  badge.className = "badge lost";
  badge.textContent = answered ? "cannot be read" : "no connection";
  if (why) { text("headline", why.charAt(0).toUpperCase() + why.slice(1)); }
}

const failed = (error) => lost(error.message, error.answered);
function guarded(action) { return () => action().catch(failed); }

by("sort").addEventListener("change", guarded(async () => { view.offset = 0; await showNodes(); }));
by("query").addEventListener("input", guarded(async () => { view.offset = 0; await showNodes(); }));
by("previous").addEventListener("click", guarded(async () => { view.offset = Math.max(0, view.offset - PAGE); await showNodes(); }));
by("next").addEventListener("click", guarded(async () => { view.offset += PAGE; await showNodes(); }));
let summary = null;
const redraw = () => { undraw(); if (summary) drawAll(summary); };
window.addEventListener("resize", () => { if (summary) drawAll(summary); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function hear(told) {
  summary = told;
  showSummary(told);
  if (told.rows !== view.rows) { view.rows = told.rows; refresh(told); }
}

if (location.hash === "#still") {
  // For a picture or a print: the run as it is now, not followed.
  ask("/api/v1/status").then(hear, failed);
} else {
  const stream = new EventSource("/api/v1/events");
  stream.onmessage = (event) => hear(JSON.parse(event.data));
  stream.addEventListener("problem", (event) => lost(JSON.parse(event.data).error, true));
  stream.onerror = () => lost("");
}
