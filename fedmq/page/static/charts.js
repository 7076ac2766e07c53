"use strict";
// The three charts, and what is marked in the first: who was lost, came back or started again, and the best version.
const charts = {};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const whole = [1, 2, 5].flatMap((step) => [...Array(9).keys()].map((power) => step * 10 ** power)).sort((a, b) => a - b);
const binary = [...Array(5).keys()].flatMap((power) => [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map((step) => step * 1024 ** power));
const short = (value) => {
  if (value === null || value === undefined) return "–";
  const near = Number(value.toPrecision(4));
  return near && Math.abs(near) < 1e-4 ? near.toExponential() : near.toString();
};
const bytes = (count) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
};
const measure = (name, value) =>
  value === null || value === undefined ? "–" : name.endsWith("accuracy") && Math.abs(value) <= 1 ? `${(100 * value).toFixed(2)} %` : short(value);

// Ticks close together must not read alike: all their digits, but those of binary fractions.
const exact = (tick) => {
  const near = Number(tick.toPrecision(10));
  return near && Math.abs(near) < 1e-4 ? near.toExponential() : near.toString();
};
const or_dash = (_, value) => value ?? "–";

const KINDS = { lost: ["orange", "▼"], left: ["wait", "▽"], back: ["green", "▲"], restarted: ["blue", "↻"], best: ["green", "★"] };
const NAMED = 12;

// The marks of the chart that is drawn now: [{version, what, node}].
let marked = [];

function drawMarks(plot) {
  const { ctx, bbox } = plot;
  const scale = devicePixelRatio;
  const shown = marked.filter((one) => one.version >= plot.scales.x.min && one.version <= plot.scales.x.max);
  ctx.save();
  ctx.font = `${13 * scale}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.lineWidth = scale;
  const heights = new Map();
  for (const one of shown) {
    const x = Math.round(plot.valToPos(one.version, "x", true));
    const row = heights.get(x) || 0;
    heights.set(x, row + 1);
    if (row > 4) continue;
    const [tone, sign] = KINDS[one.what];
    ctx.strokeStyle = ctx.fillStyle = colour(tone);
    if (shown.length <= NAMED && row === 0) {
      ctx.setLineDash([3 * scale, 3 * scale]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.fillText(sign, x, bbox.top + (12 + 14 * row) * scale);
  }
  ctx.restore();
}

function draw(id, series, data, axes, hooks = {}, room = 0) {
  const place = document.getElementById(id);
  const width = Math.max(200, place.clientWidth);
  const known = charts[id];
  const key = JSON.stringify(series.map((one) => one.label));
  if (known && known.key === key) {
    known.plot.setData(data);
    if (known.plot.width !== width) known.plot.setSize({ width, height: 220 });
    return;
  }
  if (known) known.plot.destroy();
  const tone = { stroke: colour("quiet"), grid: { stroke: colour("edge"), width: 1 }, ticks: { stroke: colour("edge"), width: 1 } };
  const plot = new uPlot({
    width, height: 220, padding: [10, 22, 0, 0],
    // Bars are as wide as half a version beside it.
    scales: { x: { time: false, ...(room ? { range: (_, least, most) => [least - room, most + room] } : {}) } },
    axes: [{ ...tone, space: 60, incrs: whole, label: "version", size: 30, gap: 3, labelSize: 16, labelGap: -2, labelFont: "12px system-ui", font: "12px system-ui" },
      ...axes.map((axis) => ({ ...tone, size: 62, font: "12px system-ui", ...axis }))],
    series: [{ label: "version", value: or_dash }, ...series.map((one) => ({ value: or_dash, ...one }))],
    cursor: { drag: { x: true, y: false } },
    hooks,
  }, data, place);
  charts[id] = { plot, key };
}

function undraw() {
  for (const id of Object.keys(charts)) { charts[id].plot.destroy(); delete charts[id]; }
}

// Shares of right answers at the left, other numbers at the right, or at the left where they are alone.
function curveAxes(names) {
  const share = { scale: "%", values: (_, ticks) => ticks.map((tick) => `${exact(100 * tick)} %`) };
  const other = { scale: "y", values: (_, ticks) => ticks.map(exact) };
  const shares = names.filter((name) => name.endsWith("accuracy")).length;
  if (shares === names.length) return [share];
  return shares ? [share, { ...other, side: 1, grid: { show: false } }] : [other];
}

function drawCurve(names, rows, marks) {
  marked = marks;
  const x = rows.map((one) => one.version);
  const tones = ["blue", "orange", "green", "wait"];
  draw("curve", names.map((name, at) => ({
    label: name.replaceAll("_", " "), scale: name.endsWith("accuracy") ? "%" : "y", stroke: colour(tones[at]), width: 2,
    dash: at ? [6, 2 + 3 * at] : undefined, spanGaps: true, points: { show: rows.length < 40 },
    value: (_, value) => measure(name, value),
  })), [x, ...names.map((name) => rows.map((one) => one.metrics[name] ?? null))],
  curveAxes(names), { draw: [drawMarks] });
}

function drawBytes(rows, each) {
  let up = 0, down = 0, updates = 0;
  const sums = rows.map((one) => {
    up += one.bytes_up; down += one.bytes_down; updates += one.accepted + one.stale + one.refused;
    return [up, down, updates * each];
  });
  const line = uPlot.paths.linear();
  // Nothing was sent, or not counted, as models of a simulation: no line along the axis.
  const some = (plot, at, ...rest) => plot.data[at].some(Boolean) ? line(plot, at, ...rest) : null;
  draw("bytes", [["up", "blue"], ["down", "green"], ["up as fp32", "orange"]].map(([label, tone], at) => ({
    label, paths: some, points: { show: (plot, place) => rows.length < 40 && plot.data[place].some(Boolean) }, stroke: colour(tone), width: 2, dash: at === 2 ? [4, 4] : undefined, value: (_, value) => value === null ? "–" : bytes(value),
  })), [rows.map((one) => one.version), ...[0, 1, 2].map((at) => sums.map((one) => one[at]))],
  [{ values: (_, ticks) => ticks.map(bytes), size: 74, incrs: binary }]);
}

function drawMembers(rows) {
  const bars = uPlot.paths.bars({ size: [0.8, 30] }), line = uPlot.paths.linear();
  // None of a kind in the whole run is no line along the axis.
  const some = (plot, at, ...rest) => plot.data[at].some(Boolean) ? line(plot, at, ...rest) : null;
  draw("members", [["applied", "blue"], ["stale", "wait"], ["refused", "orange"]].map(([label, tone], at) => ({
    label, stroke: colour(tone), width: at ? 2 : 1, fill: at ? undefined : colour(tone), paths: at ? some : bars, points: { show: false },
  })), [rows.map((one) => one.version), rows.map((one) => one.accepted), rows.map((one) => one.stale), rows.map((one) => one.refused)],
  [{ incrs: whole }], {}, 0.5);
}
