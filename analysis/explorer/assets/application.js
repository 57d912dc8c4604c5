// The page's state, its controls, its sentences, and the link that reproduces a view.
"use strict";

// Numbers of two significant digits from 10^low to 10^high.
function roundNumbers(low, high) {
  const numbers = [];
  for (let power = low; power < high; power++)
    for (let digits = 10; digits < 100; digits++) numbers.push(Number(`${digits}e${power - 1}`));
  return [...numbers, Number(`1e${high}`)];
}

const ERROR_STOPS = [0, ...roundNumbers(-3, 0)];
// stops: the values that the slider reaches, in order; the number field takes any in [low, high].
const QUANTITIES = {
  gamma: { name: "γ, discount", low: 0, high: 0.999999, whole: false, start: 0.95,
    stops: roundNumbers(-4, 0).reverse().map((rest) => Number((1 - rest).toFixed(6))),
    explain: ({ gamma }) => `What a reward one step later still counts; here about ${number(1 / (1 - gamma), 3)} steps matter.` },
  k: { name: "k, rollout length", low: 1, high: 1000, whole: true, start: 1,
    stops: roundNumbers(0, 3).filter(Number.isInteger),
    explain: ({ k }) => `Model steps in a row before starting again from real data: ${k === 1 ? "one" : `up to ${number(k)}`}.` },
  eps_m: { name: "ε_m, model error", low: 0, high: 1, whole: false, start: 0.1, stops: ERROR_STOPS,
    explain: ({ eps_m }) => `How often the model's next observation cannot be passed off as the real one, on average over real data: at most ${percent(eps_m)}.` },
  eps_pi: { name: "ε_π, policy divergence", low: 0, high: 1, whole: false, start: 0.1, stops: ERROR_STOPS,
    explain: ({ eps_pi }) => `How often your policy acts unlike the one that collected the data, in whatever situation: at most ${percent(eps_pi)}.` },
  R: { name: "R, reward range", low: 0.001, high: 1000000, whole: false, start: 2, stops: roundNumbers(-1, 3),
    explain: () => "Largest minus smallest expected reward of one step." },
};
const CHOICES = { map: Object.keys(MAPS), slice: Object.keys(SLICES) };
const LONGEST_CURVE = QUANTITIES.k.high;
const MILLISECONDS_PER_RUN = 12000;

const at = (id) => document.getElementById(id);
const lessMotion = matchMedia("(prefers-reduced-motion: reduce)");
const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const fields = {};
let state = startState();
let player = null;

// The state of an untouched page. The step t of the instance is a number, or "half": where half of C* is reached.
function startState() {
  const values = Object.entries(QUANTITIES).map(([key, { start }]) => [key, start]);
  return { ...Object.fromEntries(values), map: "paper", slice: "present", t: "half" };
}

// What is wrong with that value of that quantity; "" when nothing is.
function faultOf(key, written) {
  const { name, low, high, whole } = QUANTITIES[key];
  const value = Number(written);
  const valid = written.trim() !== "" && value >= low && value <= high && (!whole || Number.isInteger(value));
  return valid ? "" : `${name} must be ${whole ? "a whole number" : "a number"} from ${low} to ${high}, got ${written || "nothing"}.`;
}

// The part of the state in the address, and what could not be read of it.
function readAddress() {
  const read = {};
  const faults = [];
  for (const [key, written] of new URLSearchParams(location.hash.slice(1))) {
    if (key in QUANTITIES) {
      const fault = faultOf(key, written);
      if (fault) faults.push(`In the link: ${fault}`);
      else read[key] = Number(written);
    } else if (key in CHOICES && CHOICES[key].includes(written)) read[key] = written;
    else if (key === "t" && written === "half") read.t = written;
    else if (key === "t" && /^\d{1,6}$/.test(written)) read.t = Number(written);
    else faults.push(`In the link: ${key}=${written} is unknown.`);
  }
  return { read, faults };
}

function address() {
  return `#${new URLSearchParams(Object.entries(state))}`;
}

// The state as the formulas take it.
function inputs() {
  const { gamma, k, eps_m, eps_pi, R } = state;
  return { gamma, k, eps_m, eps_pi, r_max: R / 2 };
}

function nearestStop(key, value) {
  const { stops } = QUANTITIES[key];
  const after = stops.findIndex((stop) => stop >= value);
  if (after <= 0) return after === 0 ? 0 : stops.length - 1;
  return value - stops[after - 1] < stops[after] - value ? after - 1 : after;
}

function addControls(form) {
  for (const [key, { name, low, high, stops }] of Object.entries(QUANTITIES)) {
    const field = make("input", { type: "number", id: `${key}-number`, min: low, max: high, step: "any", "aria-describedby": `${key}-note`, inputmode: "decimal" });
    const slider = make("input", { type: "range", id: `${key}-slider`, min: 0, max: stops.length - 1, step: 1, "aria-label": `${name}, slider` });
    const note = make("p", { class: "explanation", id: `${key}-note` });
    form.append(make("div", { class: "quantity" }, make("label", { for: field.id }, name), field, slider, note));
    slider.addEventListener("input", () => change({ [key]: stops[slider.valueAsNumber] }));
    field.addEventListener("input", () => {
      const fault = faultOf(key, field.value);
      field.setAttribute("aria-invalid", String(fault !== ""));
      at("notice").textContent = fault;
      if (!fault) change({ [key]: Number(field.value) });
    });
    fields[key] = { field, slider, note };
  }
}

function showControls() {
  for (const [key, { field, slider, note }] of Object.entries(fields)) {
    const wrong = field.getAttribute("aria-invalid") === "true";
    const beingTyped = field === document.activeElement && (wrong || Number(field.value) === state[key]);
    if (!beingTyped) {
      field.value = state[key];
      field.setAttribute("aria-invalid", "false");
    }
    slider.value = nearestStop(key, state[key]);
    slider.setAttribute("aria-valuetext", String(state[key]));
    note.textContent = QUANTITIES[key].explain(state);
  }
  for (const key of Object.keys(CHOICES))
    for (const radio of document.getElementsByName(key)) radio.checked = radio.value === state[key];
}

function smallest(rows, names) {
  return rows.filter(({ name }) => names.includes(name)).reduce((best, row) => (row.value < best.value ? row : best));
}

// The answer, what it means, and how much error would be allowed: three texts.
function answer(x, rows) {
  const optimal = smallest(rows, Object.values(MAPS.optimal));
  const paper = smallest(rows, Object.values(MAPS.paper));
  const paperSays = paper.verdict === "keeps"
    ? `The paper's own best bound, ${labelOf(paper)}, gives ${number(paper.value)} (${percent(paper.share)}).`
    : `The paper's own best bound, ${labelOf(paper)}, is ${percent(paper.share)} of the range and says nothing.`;
  const rollouts = `${x.k === 1 ? "one-step" : `${number(x.k)}-step`} branched model rollouts`;
  if (optimal.verdict === "exact" && x.eps_m + x.eps_pi === 0)
    return ["Without errors the promised return is the true return.", "Every bound is 0.", ""];
  if (optimal.verdict === "exact")
    return ["Only the first reward counts at γ = 0, and it is real: the promised return is the true return.", "", ""];
  if (optimal.verdict !== "keeps")
    return ["With these errors nothing is guaranteed.",
      `The optimal discrepancy is γR/(1−γ) = ${number(optimal.value)}, and any two returns that share their first reward are that close, ` +
        `whatever the model. No cleverer bound from these two errors exists.`, budget(x)];
  return [`With these errors the promised return can be trusted to within ${number(optimal.value)} (${percent(optimal.share)} of the range).`,
    `For ${rollouts}: true return ≥ promised return − ${number(optimal.value)}. No smaller number is valid from these errors alone. ${paperSays}`,
    budget(x)];
}

function labelOf({ name }) {
  return CATALOGUE.find((bound) => bound.name === name).label;
}

function budget(x) {
  const [model, policy] = ["eps_m", "eps_pi"].map((error) => largestError(x, error, 0.5));
  const parts = [];
  if (model !== null && model < 1) parts.push(`ε_m at most ${number(model, 3)} with ε_π as it is`);
  if (policy !== null && policy < 1) parts.push(`ε_π at most ${number(policy, 3)} with ε_m as it is`);
  if (parts.length) return `To be trusted to within half of the range: ${parts.join(", or ")}.`;
  return model === null ? "To be trusted to within half of the range, both errors have to become smaller." : "";
}

// What the certificates from data subtract at these errors, and what rewards say instead.
function certificatesInWords(x) {
  const trivial = trivialDiscrepancy(x);
  const said = (value) => `${number(value)} (${((100 * value) / trivial).toFixed(1)}% of the range)`;
  return (
    `Certificates from data, if these are the errors at every step: Theorem 4 subtracts ${said(sumCertificate(x))}; ` +
    `Theorem 5, where each step loses independently of the others, ${said(productCertificate(x))}. ` +
    "Both go through a model. The rewards of the same episodes bound the return without one, and from the policy's own " +
    "episodes they say more: python -m analysis.certify."
  );
}

function crossoverInWords(x) {
  if (x.eps_m + x.eps_pi === 0) return "Without errors all discrepancies are 0, and there is nothing to prefer.";
  const star = crossoverRolloutLength(x);
  const optimal = "The optimal bounds never prefer the full model.";
  if (star === Infinity)
    return `The paper's bounds prefer branched rollouts of every length k, the shorter the better. ${optimal}`;
  const last = Math.floor(star);
  return `k* = ${number(star, 5)}: the paper's bounds prefer branched rollouts up to k = ${number(last)}, and the full model to longer ones. ` +
    `Your k = ${number(x.k)} is ${x.k <= star ? "within" : "beyond"} that. ${optimal}`;
}

function mapInWords(x) {
  const { branched, full } = MAPS[state.map];
  const difference = FORMULAS[branched](x) - FORMULAS[full](x);
  const better = Math.abs(difference) <= EQUAL * FORMULAS[full](x) ? "the two are equal" : `${difference < 0 ? "branched" : "the full model"} is better`;
  const crossing = crossoverLine(x, state.slice, mapAxis(x.k).longest, CROSSOVER_POINTS).length > 0;
  const paperLine = crossing ? " The line is k*: above it the full model is preferred." : " Branched is preferred everywhere on it.";
  const line = state.map === "paper" ? paperLine : "";
  const ring = SLICES[state.slice](x)(x.eps_m) === x.eps_pi ? "The circle is your setting" : "Your setting is not on this slice; there the difference is";
  return `${ring}: ${labelOf({ name: branched })} − ${labelOf({ name: full })} = ${number(difference)}, so ${better}.${line} Click or tap the map to move.`;
}

function instanceOf(x) {
  return remember("instance", x, () => runInstance(x, instanceHorizon(x.gamma)));
}

// The step that is shown.
function stepOf(instance, optimum) {
  if (state.t !== "half") return Math.min(state.t, instance.horizon);
  const half = instance.gap.findIndex((gap) => gap >= optimum / 2);
  return half < 0 ? instance.horizon : half;
}

function showInstance() {
  const x = inputs();
  const instance = instanceOf(x);
  const optimum = optimalBranched(x);
  const t = stepOf(instance, optimum);
  const [steps, departure] = [Math.min(t, x.k), t - Math.min(t, x.k)];
  at("step").max = instance.horizon;
  at("step").value = t;
  at("step").setAttribute("aria-valuetext", `step ${t} of ${instance.horizon}`);
  at("step-text").textContent = `${t} of ${instance.horizon}`;
  drawRing(at("ring"), instance, x, t);
  drawMasses(at("masses"), instance, t);
  drawGap(at("gap"), instance, optimum, t);
  at("ring-caption").textContent =
    `Grey: still in mid, as in reality. Orange: sent to good. Blue: the window of this step. Real data up to step ${departure}, then ${steps} model ${steps === 1 ? "step" : "steps"}.`;
  at("gap-caption").textContent = optimum > 0
    ? `Measured gap after ${t} steps: ${number(instance.gap[t], 6)}, ${percent(instance.gap[t] / optimum)} of C* = ${number(optimum, 6)}. ` +
      `All ${instance.horizon} steps shown reach ${percent(instance.gap[instance.horizon] / optimum)}; the rest comes later.`
    : "Without a discrepancy there is no gap.";
}

function showPlayer() {
  at("play").textContent = lessMotion.matches ? "Next step" : player === null ? "Play" : "Pause";
}

function stop() {
  clearInterval(player);
  player = null;
  showPlayer();
}

function advance() {
  const x = inputs();
  const instance = instanceOf(x);
  const t = stepOf(instance, optimalBranched(x));
  state.t = t >= instance.horizon ? 0 : t + 1;
  if (state.t === instance.horizon) stop();
  showInstance();
  keepAddress();
}

function play() {
  if (lessMotion.matches) return advance();
  if (player !== null) return stop();
  const { horizon } = instanceOf(inputs());
  player = setInterval(advance, MILLISECONDS_PER_RUN / horizon);
  advance();
  return showPlayer();
}

function show() {
  const x = inputs();
  const rows = evaluateAll(x);
  const [conclusion, meaning, allowed] = answer(x, rows);
  at("conclusion").textContent = conclusion;
  at("meaning").textContent = meaning;
  at("budget").textContent = allowed;
  at("trivial").textContent = number(trivialDiscrepancy(x));
  showControls();
  drawBars(at("bars").tBodies[0], rows);
  drawCurves(at("curves"), at("curves-legend"), x, LONGEST_CURVE);
  drawMap(at("map"), at("map-low"), at("map-high"), x, state.map, state.slice, change);
  at("crossover").textContent = crossoverInWords(x);
  at("certificates").textContent = certificatesInWords(x);
  at("map-caption").textContent = mapInWords(x);
  showInstance();
}

let pendingShow = 0;
function showSoon() {
  cancelAnimationFrame(pendingShow);
  pendingShow = requestAnimationFrame(show);
}

let pendingAddress = 0;
// Browsers limit how often the address may change.
function keepAddress() {
  clearTimeout(pendingAddress);
  pendingAddress = setTimeout(() => history.replaceState(null, "", address()), 200);
}

function change(part) {
  at("notice").textContent = "";
  state = { ...state, ...part };
  showSoon();
  keepAddress();
}

function openAddress() {
  const { read, faults } = readAddress();
  state = { ...startState(), ...read };
  at("notice").textContent = faults.join(" ");
  showSoon();
}

async function copyLink() {
  history.replaceState(null, "", address());
  try {
    await navigator.clipboard.writeText(location.href);
    at("linked").textContent = "Copied.";
  } catch {
    at("linked").textContent = "The address bar has the link.";
  }
}

function begin() {
  addControls(at("settings"));
  drawAssumptions(at("assumptions"));
  for (const key of Object.keys(CHOICES))
    for (const radio of document.getElementsByName(key)) radio.addEventListener("change", () => change({ [key]: radio.value }));
  at("step").addEventListener("input", () => {
    stop();
    change({ t: at("step").valueAsNumber });
  });
  at("play").addEventListener("click", play);
  at("link").addEventListener("click", copyLink);
  at("reset").addEventListener("click", () => change(startState()));
  at("settings").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", openAddress);
  addEventListener("resize", showSoon);
  darkScheme.addEventListener("change", showSoon);
  lessMotion.addEventListener("change", stop);
  showPlayer();
  openAddress();
}

begin();
