"use strict";
// Everything that comes from nodes is put in as text, never as HTML.
const by = (id) => document.getElementById(id);
const PAGE = 50;
const view = { versions: [], run: null, rows: null, sort: "id", down: false, offset: 0, total: 0, charts: {}, loading: false, again: false };

const number = new Intl.NumberFormat("en");
const whole = [1, 2, 5].flatMap((step) => [...Array(9).keys()].map((power) => step * 10 ** power)).sort((a, b) => a - b);
const binary = [...Array(5).keys()].flatMap((power) => [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map((step) => step * 1024 ** power));
const short = (value) => value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString();
const bytes = (count) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
};
const measure = (name, value) =>
  value === null || value === undefined ? "–" : name.endsWith("accuracy") && Math.abs(value) <= 1 ? `${(100 * value).toFixed(2)} %` : short(value);

async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || answer.statusText);
  return body;
}

function text(id, value) { by(id).textContent = value; }

function showSummary(summary) {
  const waiting = summary.waiting;
  text("task", summary.task || "fedmq");
  document.title = `${summary.task || "fedmq"}: version ${summary.head ?? "–"}`;
  text("headline", waiting.sentence.charAt(0).toUpperCase() + waiting.sentence.slice(1));
  const badge = by("state");
  badge.className = `badge ${waiting.running ? "running" : "stopped"}`;
  badge.textContent = waiting.running ? "running" : "not running";
  text("version", summary.head === null ? "–" : number.format(summary.head));
  text("online", `${number.format(waiting.running ? waiting.online : 0)} of ${number.format(summary.nodes)}`);
  text("updates", number.format(summary.updates));
  text("saved", summary.bytes_up ? `${short(summary.bytes_fp32 / summary.bytes_up)} ×` : "–");
  if (summary.best) {
    text("best", measure(summary.best.metric, summary.best.value));
    text("best-name", `best ${summary.best.metric}, version ${summary.best.version}`);
  }
  by("model-best").hidden = !summary.best;
  text("counters", Object.entries(summary.counters).map(([name, count]) => `${name.replaceAll("_", " ")} ${number.format(count)}`).join(", "));
  const incidents = Object.entries(summary.incidents);
  by("incidents-section").hidden = !incidents.length;
  by("incidents").replaceChildren(...incidents.slice(0, 50).map(([sender, kinds]) => {
    const item = document.createElement("li");
    item.textContent = `${sender}: ${Object.entries(kinds).map(([kind, count]) => `${kind} ${number.format(count)}`).join(", ")}`;
    return item;
  }));
}

// One after the other: what changes while a refresh is under way is fetched by the next.
async function refresh(summary) {
  if (view.loading) { view.again = summary; return; }
  view.loading = true;
  try {
    if (summary.run !== view.run) { view.run = summary.run; view.versions = []; }
    const kept = view.versions.slice(0, Math.max(0, view.versions.length - 50));
    const after = kept.length ? kept[kept.length - 1].version : -1;
    const [found] = await Promise.all([ask(`/api/v1/versions?after=${after}`), showNodes()]);
    view.versions = kept.concat(found.versions);
    drawAll(summary);
  } catch (error) {
    lost(error.message);
  } finally {
    view.loading = false;
    if (view.again) { const next = view.again; view.again = false; refresh(next); }
  }
}

function mainMetrics() {
  const names = new Set();
  for (const one of view.versions) for (const name of Object.keys(one.metrics)) names.add(name);
  const first = ["accuracy", "loss", "nodes_accuracy", "nodes_loss"].filter((name) => names.has(name));
  return first.concat([...names].filter((name) => !first.includes(name)).sort()).slice(0, 4);
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function draw(id, series, data, axes) {
  const place = by(id);
  const width = Math.max(240, place.clientWidth);
  const known = view.charts[id];
  const key = JSON.stringify(series.map((one) => one.label));
  if (known && known.key === key) { known.plot.setData(data); if (known.plot.width !== width) known.plot.setSize({ width, height: 220 }); return; }
  if (known) known.plot.destroy();
  const tone = { stroke: colour("quiet"), grid: { stroke: colour("edge") }, ticks: { stroke: colour("edge") } };
  const plot = new uPlot({
    width, height: 220, padding: [10, 8, 0, 0],
    scales: { x: { time: false } },
    axes: [{ ...tone, space: 60, incrs: whole }, ...axes.map((axis) => ({ ...tone, size: 62, ...axis }))],
    series: [{ label: "version" }, ...series],
    cursor: { drag: { x: true, y: false } },
  }, data, place);
  view.charts[id] = { plot, key };
}

function drawAll(summary) {
  const rows = view.versions.filter((one) => one.version > 0);
  const x = rows.map((one) => one.version);
  const names = mainMetrics();
  const last = [...rows].reverse().find((one) => names.length && one.metrics[names[0]] !== undefined);
  text("metric-name", names[0] ? names[0].replaceAll("_", " ") : "not evaluated");
  text("metric", last ? measure(names[0], last.metrics[names[0]]) : "–");
  text("curve-title", names.length ? names.map((name) => name.replaceAll("_", " ")).join(", ") : "Not evaluated");
  const tones = ["blue", "orange", "green", "wait"];
  draw("curve", names.map((name, at) => ({
    label: name, scale: name.endsWith("accuracy") ? "%" : "y", stroke: colour(tones[at]), width: 2, dash: at ? [6, 2 + 3 * at] : undefined,
    spanGaps: true, points: { show: rows.length < 40 },
    value: (_, value) => measure(name, value),
  })), [x, ...names.map((name) => rows.map((one) => one.metrics[name] ?? null))],
  [{ scale: "%", values: (_, ticks) => ticks.map((tick) => `${Math.round(1000 * tick) / 10} %`) }, { scale: "y", side: 1, grid: { show: false } }]);
  let up = 0, down = 0, updates = 0;
  const each = summary.updates ? summary.bytes_fp32 / summary.updates : 0;
  const sums = rows.map((one) => {
    up += one.bytes_up; down += one.bytes_down; updates += one.accepted + one.stale + one.refused;
    return [up, down, updates * each];
  });
  draw("bytes", [["up", "blue"], ["down", "green"], ["up as fp32", "orange"]].map(([label, tone], at) => ({
    label, stroke: colour(tone), width: 2, dash: at === 2 ? [4, 4] : undefined, value: (_, value) => value === null ? "–" : bytes(value),
  })), [x, 0, 1, 2].map((at, place) => place ? sums.map((one) => one[at]) : x),
  [{ values: (_, ticks) => ticks.map(bytes), size: 74, incrs: binary }]);
  const bars = uPlot.paths.bars({ size: [0.8, 30] });
  draw("members", [["applied", "blue"], ["stale", "wait"], ["refused", "orange"]].map(([label, tone], at) => ({
    label, stroke: colour(tone), width: at ? 2 : 1, fill: at ? undefined : colour(tone), paths: at ? undefined : bars, points: { show: false },
  })), [x, rows.map((one) => one.accepted), rows.map((one) => one.stale), rows.map((one) => one.refused)], [{ incrs: whole }]);
}

function happened(node) {
  const counts = { ...node.reasons };
  for (const [reason, count] of Object.entries(node.absences)) counts[reason] = (counts[reason] || 0) + count;
  return Object.entries(counts).map(([reason, count]) => `${reason} ${number.format(count)}`).join(", ");
}

async function showNodes() {
  const sort = `${view.down ? "-" : ""}${view.sort}`;
  const found = await ask(`/api/v1/nodes?sort=${sort}&query=${encodeURIComponent(by("query").value)}&offset=${view.offset}&limit=${PAGE}`);
  view.total = found.total;
  if (view.offset && view.offset >= found.total) { view.offset = 0; return showNodes(); }
  const rows = found.nodes.map((node) => {
    const row = document.createElement("tr");
    const cells = [node.id, number.format(node.updates_applied), number.format(node.updates_stale), number.format(node.updates_refused),
      number.format(node.updates_waiting), number.format(node.asked), node.staleness_mean.toFixed(1), bytes(node.bytes_up), bytes(node.bytes_down),
      number.format(node.restarts), happened(node)];
    for (const cell of cells) { const data = document.createElement("td"); data.textContent = cell; row.append(data); }
    return row;
  });
  by("nodes").tBodies[0].replaceChildren(...rows);
  const first = found.total ? view.offset + 1 : 0;
  text("shown", `${number.format(first)} to ${number.format(view.offset + rows.length)} of ${number.format(found.total)}`);
  by("previous").disabled = view.offset === 0;
  by("next").disabled = view.offset + rows.length >= found.total;
}

function lost(why) {
  const badge = by("state");
  badge.className = "badge lost";
  badge.textContent = why || "no connection";
}

function guarded(action) { return () => action().catch((error) => lost(error.message)); }

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", guarded(async () => {
    view.down = view.sort === button.dataset.sort ? !view.down : button.dataset.sort !== "id";
    view.sort = button.dataset.sort;
    view.offset = 0;
    for (const head of document.querySelectorAll("th")) head.removeAttribute("aria-sort");
    button.parentElement.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    await showNodes();
  }));
}
by("query").addEventListener("input", guarded(async () => { view.offset = 0; await showNodes(); }));
by("previous").addEventListener("click", guarded(async () => { view.offset = Math.max(0, view.offset - PAGE); await showNodes(); }));
by("next").addEventListener("click", guarded(async () => { view.offset += PAGE; await showNodes(); }));
let summary = null;
const redraw = () => { for (const chart of Object.values(view.charts)) chart.plot.destroy(); view.charts = {}; if (summary) drawAll(summary); };
window.addEventListener("resize", () => { if (summary) drawAll(summary); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

function hear(told) {
  summary = told;
  showSummary(told);
  if (told.rows !== view.rows) { view.rows = told.rows; refresh(told); }
}

if (location.hash === "#still") {
  // For a picture or a print: the run as it is now, not followed.
  ask("/api/v1/status").then(hear, (error) => lost(error.message));
} else {
  const stream = new EventSource("/api/v1/events");
  stream.onmessage = (event) => hear(JSON.parse(event.data));
  stream.addEventListener("problem", (event) => lost(JSON.parse(event.data).error));
  stream.onerror = () => lost("no connection");
}
