// Draws the curves of a GPU with uPlot, from /api/v1/history. Without it, the page has them as plain pictures.
"use strict";

const UNITS = {
  ratio: (value) => `${Math.round(value * 100)} %`,
  bytes: (value) => `${Number((value / 2 ** 30).toFixed(value < 2 ** 33 ? 1 : 0))} GiB`,
  celsius: (value) => `${Math.round(value)} °C`,
  watts: (value) => `${Math.round(value)} W`,
};
const DAY = 86400;
const WHOLE_GIB = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].map((number) => number * 2 ** 30);
// Hours as the page's clock has them.
const hour = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = (at) => new Date(at * 1000).toLocaleDateString([], { day: "numeric", month: "short" });
const known = (value) => value !== null && value !== undefined;
const newest = (values) => values.findLast(known);
// Values that no line leads to, as nothing is known before and after them, are dots; the highest lies not upon its mean.
const alone = (plot, series) => {
  const values = plot.data[series];
  const lone = (at) => known(values[at]) && !known(values[at - 1]) && !known(values[at + 1]);
  return [...values.keys()].filter((at) => lone(at) && (series === 1 || values[at] !== plot.data[1][at]));
};
const dots = (size, stroke) => ({ show: false, filter: alone, size, width: 0, fill: stroke, stroke });
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

async function draw(figure) {
  const { node, gpu, metric, unit, length, step } = figure.dataset;
  const from = Math.floor(Date.now() / 1000 - Number(length));
  const asked = new URLSearchParams({ node, gpu, metric, from, step: `${Math.round(Number(step))}s` });
  const answer = await fetch(`/api/v1/history?${asked}`, { credentials: "same-origin" });
  if (!answer.ok) return;
  const told = await answer.json();
  const times = told.means.map((_, place) => told.start_timestamp_seconds + place * told.step_seconds);
  const show = UNITS[unit] || String;
  const place = figure.querySelector(".plot");
  // Where nobody points at a moment, the latest stands there.
  const words = (plot, value, series, at) => {
    const told = at === null ? newest(plot.data[series]) : value;
    return known(told) ? show(told) : "";
  };
  const options = {
    width: place.clientWidth,
    height: place.clientHeight - 26,
    ms: 1e-3,
    cursor: { points: { size: 6 } },
    legend: { live: true },
    scales: { y: { range: (_, low, high) => [0, unit === "ratio" ? 1 : Math.max(high || 1, unit === "celsius" ? 100 : 1) * 1.04] } },
    axes: [
      { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui",
        values: (_, moments) => moments.map(Number(length) > 2 * DAY ? day : hour) },
      { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui",
        size: 62, ...(unit === "bytes" ? { incrs: WHOLE_GIB } : {}), values: (_, values) => values.map(show) },
    ],
    series: [
      { value: (plot, value, _, at) => {
        const moment = at === null ? newest(plot.data[0]) : value;
        return moment ? `${day(moment)} ${hour(moment)}` : "";
      } },
      { label: "mean", stroke: colour("--bar-fill"), fill: `${colour("--bar-fill")}22`, width: 1.6, value: words, points: dots(6, colour("--bar-fill")) },
      { label: "highest", stroke: colour("--dim"), width: 0.8, dash: [3, 3], value: words, points: dots(3, colour("--dim")) },
    ],
  };
  const data = [times, told.means, told.highs];
  if (figure.plot) {
    figure.plot.setData(data);
  } else {
    place.replaceChildren();
    figure.plot = new uPlot(options, data, place);
  }
}

let drawn = 0;
function drawAll() {
  drawn = Date.now();
  for (const figure of document.querySelectorAll("figure.chart")) draw(figure).catch(() => {});
}
function drawAnew() {
  for (const figure of document.querySelectorAll("figure.chart")) {
    if (figure.plot) figure.plot.destroy();
    figure.plot = null;
  }
  drawAll();
}
// A minute is the finest that is kept.
document.addEventListener("refreshed", () => { if (Date.now() - drawn > 60000) drawAll(); });
let settling = 0;
addEventListener("resize", () => { clearTimeout(settling); settling = setTimeout(drawAnew, 200); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAnew);
drawAll();
