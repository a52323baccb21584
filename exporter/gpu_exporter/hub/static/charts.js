// Draws the curves of a GPU with uPlot, from /api/v1/history. Without it, the page has them as plain pictures.
"use strict";

const UNITS = {
  ratio: (value) => `${Math.round(value * 100)} %`,
  bytes: (value) => `${(value / 2 ** 30).toFixed(value < 2 ** 33 ? 1 : 0)} GiB`,
  celsius: (value) => `${Math.round(value)} °C`,
  watts: (value) => `${Math.round(value)} W`,
};
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
  const words = (_, value) => (value === null || value === undefined ? "" : show(value));
  const options = {
    width: place.clientWidth,
    height: place.clientHeight - 26,
    ms: 1e-3,
    cursor: { points: { size: 6 } },
    legend: { live: true },
    scales: { y: { range: (_, low, high) => [0, unit === "ratio" ? 1 : Math.max(high || 1, unit === "celsius" ? 100 : 1) * 1.04] } },
    axes: [
      { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" },
      { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui",
        size: 62, values: (_, values) => values.map(show) },
    ],
    series: [
      { value: (_, value) => (value ? new Date(value * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" }) : "") },
      { label: "mean", stroke: colour("--bar-fill"), fill: `${colour("--bar-fill")}22`, width: 1.6, value: words, points: { show: false } },
      { label: "highest", stroke: colour("--dim"), width: 0.8, dash: [3, 3], value: words, points: { show: false } },
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
