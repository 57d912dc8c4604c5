// Numbers as text, and the charts. Each draw function fills one element of the page and returns nothing.
"use strict";

const CATALOGUE = JSON.parse(document.getElementById("catalogue").textContent);
const SCHEMES = {
  full: "the model from the first step on",
  branched: "real data, then 1 to k model steps, averaged",
  "branched-exact": "real data, then exactly k model steps",
};
// Largest share of the trivial discrepancy on the curves' axis.
const TOP_SHARE = 10;
const MAP_COLUMNS = 81;
const MAP_ROWS = 50;
const CROSSOVER_POINTS = 4001;

// That many significant digits, but never fewer than the whole part has.
function number(value, digits = 4) {
  if (value < 0) return `−${number(-value, digits)}`;
  if (value !== 0 && value < 1e-4) return value.toExponential(digits - 2);
  const whole = Math.ceil(Math.log10(value + 1));
  return value.toLocaleString("en", { maximumSignificantDigits: Math.max(digits, whole) });
}

// A number for the edge of a chart: three digits, large ones as 2.14M.
function short(value) {
  return value !== 0 && value < 0.001 ? value.toExponential(1) : value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 3 });
}

function percent(share) {
  if (share !== 0 && share < 0.0005) return `${(100 * share).toExponential(1)}%`;
  return `${(100 * share).toLocaleString("en", { maximumFractionDigits: share < 10 ? 1 : 0 })}%`;
}

// An element with attributes and children (elements or text); SVG inside an "svg" name space.
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function linear([from, to], [start, end]) {
  return (value) => start + ((value - from) / (to - from)) * (end - start);
}

function logarithmic([from, to], range) {
  const position = linear([Math.log(from), Math.log(to)], range);
  return (value) => position(Math.log(value));
}

function pathOf(points) {
  return points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");
}

// An empty chart as wide as its place: {svg, width, height, left, right, top, bottom} with the edges of the plot.
function chart(place, height, description, margin = { left: 58, right: 20, top: 12, bottom: 40 }) {
  const width = Math.max(place.clientWidth, 200);
  const svg = makeSvg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description });
  place.replaceChildren(svg);
  const edges = { left: margin.left, right: width - margin.right, top: margin.top, bottom: height - margin.bottom };
  const clip = `${place.id}-clip`;
  const { left, right, top, bottom } = edges;
  svg.append(makeSvg("clipPath", { id: clip }, makeSvg("rect", { x: left, y: top, width: right - left, height: bottom - top })));
  return { svg, width, height, ...edges, clip: `url(#${clip})` };
}

function text(content, x, y, attributes = {}) {
  return makeSvg("text", { x, y, ...attributes }, content);
}

// Ticks and names of both axes; x and y are {scale, ticks: [[value, label]], name}; marks: the class of the lines at y.
function axes({ svg, left, right, top, bottom }, x, y, marks = "grid") {
  for (const [value, label] of y.ticks) {
    const at = y.scale(value);
    svg.append(makeSvg("line", { class: marks, x1: marks === "grid" ? right : left, x2: left - 4, y1: at, y2: at }));
    svg.append(text(label, left - 8, at + 4, { "text-anchor": "end" }));
  }
  let free = -Infinity;
  for (const [value, label] of x.ticks) {
    const at = x.scale(value);
    svg.append(makeSvg("line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
    if (at - 4 * label.length < free) continue;
    svg.append(text(label, at, bottom + 17, { "text-anchor": "middle" }));
    free = at + 4 * label.length + 8;
  }
  svg.append(makeSvg("path", { class: "axis", d: `M${left} ${top}V${bottom}H${right}` }));
  svg.append(text(x.name, (left + right) / 2, bottom + 34, { "text-anchor": "middle", class: "soft" }));
  if (y.name) svg.append(text(y.name, left + 6, top + 12, { class: "soft label" }));
}

function bar(parts) {
  return make("span", { class: "bar", "aria-hidden": "true" }, ...parts.map(({ share, ...attributes }) =>
    make("span", { ...attributes, style: `${attributes.style ?? ""};width:${100 * Math.min(share, 1)}%` })));
}

function verdictInWords({ verdict, share }) {
  return {
    vacuous: "vacuous",
    exact: "exact",
    "any-model": "holds for any model",
    keeps: `keeps ${percent(1 - share)} of the range`,
  }[verdict];
}

function drawBars(body, rows) {
  body.replaceChildren(...rows.map((row, at) => {
    const { label, scheme, colour } = CATALOGUE[at];
    return make("tr", { class: row.verdict, "data-bound": row.name, style: `--base:${colour}` },
      make("th", { scope: "row" }, make("span", { class: "name" }, label),
        make("span", { class: "explanation" }, SCHEMES[scheme])),
      make("td", { class: "measure" }, bar([{ share: row.share, class: row.verdict === "vacuous" ? "over" : "" }]),
        make("span", { class: "number", "data-value": row.value }, number(row.value, 6)),
        make("span", { class: "number explanation" }, ` = ${percent(row.share)} of trivial`)),
      make("td", { class: "verdict" }, verdictInWords(row)));
  }));
}

function drawAssumptions(list) {
  list.replaceChildren(...CATALOGUE.flatMap(({ label, source, assumptions }) =>
    [make("dt", {}, `${label}: ${source}`), ...assumptions.map((assumption) => make("dd", {}, assumption))]));
}

// Bounds whose curves coincide share one: [{labels, colour, scheme, shares}].
function curvesOf(x, lengths) {
  const trivial = trivialDiscrepancy(x);
  const curves = [];
  for (const { name, label, colour, scheme } of CATALOGUE) {
    const shares = lengths.map((k) => FORMULAS[name]({ ...x, k }) / trivial);
    const same = curves.find((curve) => curve.shares.every((share, at) => Math.abs(share - shares[at]) <= EQUAL * share));
    if (same) same.labels.push(label);
    else curves.push({ labels: [label], colour, scheme, shares });
  }
  return curves;
}

function roundLengths(last, points) {
  const lengths = Array.from({ length: points }, (_, at) => Math.round(last ** (at / (points - 1))));
  return [...new Set(lengths)];
}

function shareTicks(low, high) {
  const decades = Math.log10(high / low);
  const steps = decades > 2.5 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const step of steps) ticks.push(Number(`${step}e${power}`));
  return ticks.filter((tick) => tick >= low && tick <= high).map((tick) => [tick, percent(tick)]);
}

function drawCurves(place, legend, x, longest) {
  const lengths = roundLengths(longest, 120);
  const curves = curvesOf(x, lengths);
  const positive = curves.flatMap(({ shares }) => shares).filter((share) => share > 0);
  const low = Math.max(Math.min(...positive, 0.5) / 1.5, 1e-6);
  const high = Math.min(Math.max(...positive, 1) * 1.5, TOP_SHARE);
  const frame = chart(place, 340, "Discrepancy of every bound against the rollout length k");
  const { svg, left, right, top, bottom, clip } = frame;
  const across = logarithmic([1, longest], [left, right]);
  const up = logarithmic([low, high], [bottom, top]);
  svg.append(makeSvg("rect", { class: "vacuous-region", x: left, y: top, width: right - left, height: up(1) - top }));
  const ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter((k) => k <= longest).map((k) => [k, number(k)]);
  axes(frame, { scale: across, ticks, name: "rollout length k (model steps)" }, { scale: up, ticks: shareTicks(low, high), name: "" });
  svg.append(makeSvg("line", { class: "limit", x1: left, x2: right, y1: up(1), y2: up(1) }));
  const drawn = makeSvg("g", { "clip-path": clip });
  svg.append(drawn);
  const offScale = [];
  for (const { labels, colour, scheme, shares } of curves) {
    if (Math.min(...shares) > high) offScale.push(labels.join(" = "));
    const points = lengths.map((k, at) => [across(k), up(Math.max(shares[at], low / 10))]);
    drawn.append(makeSvg("path", { class: `curve ${scheme}`, style: `--base:${colour}`, d: pathOf(points) }));
  }
  svg.append(makeSvg("line", { class: "now", x1: across(x.k), x2: across(x.k), y1: top, y2: bottom }));
  const toTheLeft = across(x.k) > (left + right) / 2;
  svg.append(text(`your k = ${x.k}`, across(x.k) + (toTheLeft ? -6 : 6), bottom - 8, { "text-anchor": toTheLeft ? "end" : "start", class: "label" }));
  svg.append(text("vacuous: at or above R/(1−γ)", right - 6, up(1) - 6, { "text-anchor": "end", class: "label" }));
  legend.replaceChildren(...curves.map(({ labels, colour, scheme }) =>
    make("span", { style: `--base:${colour}` }, make("i", { class: scheme }), labels.join(" = "))));
  if (!positive.length) legend.replaceChildren("Every bound is 0 at every k.");
  if (offScale.length) legend.append(make("span", {}, `Above this chart at every k: ${offScale.join(", ")}.`));
}

// [r, g, b] of a colour variable of the page, written #rgb or #rrggbb.
function rgb(variable) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(variable).trim().slice(1);
  const digits = hex.length === 3 ? [...hex].map((digit) => digit + digit) : hex.match(/../g);
  return digits.map((pair) => parseInt(pair, 16));
}

// Blue below 0 (branched is better), red above, at share in [-1, 1] of the strongest colour.
function diverging(share, { neutral, branched, full }) {
  const end = share < 0 ? branched : full;
  return neutral.map((channel, at) => Math.round(channel + (end[at] - channel) * Math.abs(share)));
}

// Rows of numbers as a picture of one pixel each, first row at the bottom; limit has the strongest colour.
function mapImage(values, limit) {
  const colours = { neutral: rgb("--neutral"), branched: rgb("--branched"), full: rgb("--full") };
  const canvas = make("canvas", { width: values[0].length, height: values.length });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  [...values].reverse().flat().forEach((value, at) => {
    pixels.data.set([...diverging(limit > 0 ? value / limit : 0, colours), 255], 4 * at);
  });
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

const remembered = {};
// compute(), or its last result when the key is the same.
function remember(name, key, compute) {
  const text = JSON.stringify(key);
  if (remembered[name]?.key !== text) remembered[name] = { key: text, result: compute() };
  return remembered[name].result;
}

function mapAxis(k) {
  const longest = [MAP_ROWS, 100, 200, 500, 1000].find((last) => last >= k);
  const lengths = Array.from({ length: MAP_ROWS }, (_, row) => Math.round(1 + (row * (longest - 1)) / (MAP_ROWS - 1)));
  const errors = Array.from({ length: MAP_COLUMNS }, (_, column) => column / (MAP_COLUMNS - 1));
  return { longest, lengths, errors };
}

// choose({eps_m, k}) is called with a point of the map that was clicked.
function drawMap(place, low, high, x, map, slice, choose) {
  const { longest, lengths, errors } = mapAxis(x.k);
  const divergence = SLICES[slice](x);
  const key = [x.gamma, x.r_max, map, slice, slice === "present" ? x.eps_pi : 0, longest];
  const values = remember("map", key, () => differenceMap(x, map, slice, lengths, errors));
  const limit = Math.max(...values.flat().map(Math.abs));
  const frame = chart(place, 360, "Branched minus full-model discrepancy over model error and rollout length");
  const { svg, left, right, top, bottom, clip } = frame;
  const across = linear([0, 1], [left, right]);
  const up = linear([1, longest], [bottom, top]);
  svg.append(makeSvg("image", { href: mapImage(values, limit), x: left, y: top, width: right - left, height: bottom - top, preserveAspectRatio: "none" }));
  const ticks = [1, ...[0.2, 0.4, 0.6, 0.8, 1].map((part) => part * longest)].map((k) => [k, number(k)]);
  axes(frame, { scale: across, ticks: [0, 0.25, 0.5, 0.75, 1].map((error) => [error, String(error)]), name: "model error ε_m" },
    { scale: up, ticks, name: "rollout length k" }, "axis");
  const drawn = makeSvg("g", { "clip-path": clip });
  svg.append(drawn);
  if (map === "paper") {
    // Beyond the axis too, so that the line leaves it at the edge.
    const points = crossoverLine(x, slice, 20 * longest, CROSSOVER_POINTS).map(({ eps_m, k }) => [across(eps_m), up(k)]);
    for (const style of ["halo", "crossover"]) drawn.append(makeSvg("path", { class: style, d: pathOf(points) }));
  }
  const hit = makeSvg("rect", { class: "hit", x: left, y: top, width: right - left, height: bottom - top, fill: "transparent" });
  hit.addEventListener("click", (event) => {
    const box = hit.getBoundingClientRect();
    const error = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const length = 1 + (1 - (event.clientY - box.top) / box.height) * (longest - 1);
    choose({ eps_m: Number(error.toFixed(3)), k: Math.min(Math.max(Math.round(length), 1), longest) });
  });
  svg.append(hit);
  if (Math.abs(divergence(x.eps_m) - x.eps_pi) < EQUAL)
    svg.append(makeSvg("circle", { class: "point", cx: across(x.eps_m), cy: up(x.k), r: 6 }));
  low.textContent = `−${number(limit, 3)} branched is better`;
  high.textContent = `full model is better +${number(limit, 3)}`;
}

// The part of a ring between two radii and from one label to another, clockwise from the top.
function ringPart(centre, inner, outer, start, width, attributes) {
  const at = (radius, label) => {
    const angle = 2 * Math.PI * label - Math.PI / 2;
    return `${(centre + radius * Math.cos(angle)).toFixed(3)} ${(centre + radius * Math.sin(angle)).toFixed(3)}`;
  };
  // An arc cannot close on itself: two halves do.
  const half = start + width / 2;
  const arc = (radius, sweep, ...labels) => labels.map((label) => `A${radius} ${radius} 0 0 ${sweep} ${at(radius, label)}`).join("");
  const d = `M${at(outer, start)}${arc(outer, 1, half, start + width)}L${at(inner, start + width)}${arc(inner, 0, half, start)}Z`;
  return makeSvg("path", { d, ...attributes });
}

// The branch of min(t, k) model steps at time t: areas are masses.
function drawRing(place, instance, x, t) {
  const size = Math.min(Math.max(place.clientWidth, 200), 320);
  const frame = chart(place, size, `Ring of labels at step ${t}`, { left: 0, right: 0, top: 0, bottom: 0 });
  const centre = size / 2;
  const [inner, outer] = [size * 0.18, size * 0.36];
  const model = Math.min(t, x.k);
  const first = t - model;
  const sent = instance.windows.slice(first, t).reduce((sum, { width }) => sum + width, 0);
  const start = instance.windows[Math.min(first, instance.horizon - 1)].start;
  const mid = Math.sqrt(inner ** 2 + (1 - x.eps_pi) ** t * (outer ** 2 - inner ** 2));
  const { svg } = frame;
  svg.setAttribute("viewBox", `${(size - frame.width) / 2} 0 ${frame.width} ${size}`);
  svg.append(ringPart(centre, inner, outer, 0, 1, { class: "good" }));
  if (sent < 1) svg.append(ringPart(centre, inner, mid, start + sent, 1 - sent, { class: "mid" }));
  if (t > 0 && instance.windows[t - 1].width > 0) {
    const { start: from, width } = instance.windows[t - 1];
    svg.append(ringPart(centre, outer + 4, outer + 11, from, Math.min(width, 1), { class: "window" }));
  }
  for (const label of [0, 0.25, 0.5, 0.75]) {
    const angle = 2 * Math.PI * label - Math.PI / 2;
    svg.append(text(String(label), centre + size * 0.455 * Math.cos(angle), centre + size * 0.455 * Math.sin(angle) + 4, { "text-anchor": "middle", class: "soft" }));
  }
  svg.append(text(`t = ${t}`, centre, centre + 5, { "text-anchor": "middle" }));
}

function drawMasses(place, instance, t) {
  const rows = [
    ["truth: your policy in the real process", 0],
    ["this branch: the most model steps", instance.longest[t]],
    ["all branches, averaged as in the branched return", instance.mean[t]],
  ];
  place.replaceChildren(...rows.map(([label, good]) =>
    make("div", { class: "mass" }, make("span", {}, label), make("span", { class: "number" }, `${percent(good)} good`),
      bar([{ share: good, style: "background:var(--good)" }]))));
}

function drawGap(place, instance, optimum, t) {
  const frame = chart(place, 230, "Measured gap between model return and true return, accumulating over time");
  const { svg, left, right, top, bottom } = frame;
  const highest = optimum > 0 ? optimum * 1.15 : 1;
  const across = linear([0, instance.horizon], [left, right]);
  const up = linear([0, highest], [bottom, top]);
  const quarter = (part) => Math.round(part * instance.horizon);
  axes(frame, { scale: across, ticks: [0, 0.25, 0.5, 0.75, 1].map(quarter).map((step) => [step, String(step)]), name: "step t" },
    { scale: up, ticks: [0, 0.5, 1].map((part) => [part * optimum, short(part * optimum)]), name: "" });
  const points = instance.gap.map((gap, step) => [across(step), up(gap)]);
  const past = points.slice(0, t + 1);
  svg.append(makeSvg("path", { class: "accumulated", d: `${pathOf([...past, [across(t), bottom], [left, bottom]])}Z` }));
  svg.append(makeSvg("path", { class: "axis", d: pathOf(points) }));
  svg.append(makeSvg("path", { class: "measured", d: pathOf(past) }));
  svg.append(makeSvg("line", { class: "optimum", x1: left, x2: right, y1: up(optimum), y2: up(optimum) }));
  svg.append(text("C*, optimal branched discrepancy", left + 6, up(optimum) - 6, { class: "label" }));
  svg.append(makeSvg("circle", { class: "point", cx: across(t), cy: up(instance.gap[t]), r: 5 }));
}
