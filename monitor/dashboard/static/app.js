/* Draws charts and listens for news. Every page can be read and used without it. */
"use strict";

const root = document.body.dataset.root;

/* The legend breaks into lines where the page is narrow: what is drawn moves down by as much, in CSS pixels. */
function makeRoom(option, width) {
  const letterPx = 6, besideTextPx = 32, linePx = 19;
  const lines = [0];
  for (const { name } of option.legend.data) {
    const neededPx = besideTextPx + letterPx * name.length;
    if (lines.at(-1) + neededPx > width) lines.push(0);
    lines[lines.length - 1] += neededPx;
  }
  const morePx = linePx * (lines.length - 1);
  option.grid.top += morePx;
  option.legend.itemGap = 6;
  return morePx;
}

function draw(figure) {
  const option = JSON.parse(figure.querySelector("script").textContent);
  const canvas = figure.querySelector(".canvas");
  figure.hidden = false;
  if (!canvas.clientWidth) return;
  /* A canvas inherits no font. */
  option.textStyle.fontFamily = getComputedStyle(canvas).fontFamily;
  canvas.style.height = "";
  canvas.style.height = `${canvas.clientHeight + makeRoom(option, canvas.clientWidth)}px`;
  const chart = echarts.getInstanceByDom(canvas) || echarts.init(canvas);
  chart.resize();
  chart.setOption(option, true);
  canvas.setAttribute("role", "img");
}

function drawAll(within) {
  for (const figure of within.querySelectorAll("figure.chart")) draw(figure);
  for (const details of within.querySelectorAll("details")) details.open = false;
}

/* Puts what a fresh copy of the page says into this one, unless the person is busy there. */
function renew(part, page) {
  const fresh = page.getElementById(part.id);
  if (!fresh || part.contains(document.activeElement)) return;
  const open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
  for (const canvas of part.querySelectorAll(".canvas")) echarts.dispose(canvas);
  part.replaceChildren(...fresh.childNodes);
  drawAll(part);
  for (const id of open) document.getElementById(id).open = true;
}

async function fetchParts(kind) {
  const parts = document.querySelectorAll(`[data-live=${kind}]`);
  if (!parts.length) return;
  const answer = await fetch(kind === "microphone" ? `${root}/microphone` : location.pathname);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) renew(part, page);
}

function say(text) {
  document.getElementById("say").textContent = text;
}

function listen() {
  const news = new EventSource(`${root}/live`);
  const missed = new Set();
  const tell = (kind) => (document.hidden ? missed.add(kind) : fetchParts(kind));
  /* Whatever happened while nobody listened, also while the machine slept. */
  news.addEventListener("open", () => ["microphone", "stored"].forEach(tell));
  news.addEventListener("microphone", (event) => {
    say(JSON.parse(event.data));
    tell("microphone");
  });
  news.addEventListener("stored", () => tell("stored"));
  news.addEventListener("over", () => location.reload());
  news.addEventListener("error", () => {
    const gone = "The dashboard does not respond; it may have been stopped. This page may be out of date.";
    document.getElementById("microphone").textContent = gone;
    say(gone);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    missed.forEach(fetchParts);
    missed.clear();
  });
}

drawAll(document);
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) document.querySelectorAll("figure.chart").forEach(draw);
  width = innerWidth;
});
listen();
