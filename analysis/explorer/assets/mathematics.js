// Discrepancies, k* and verdicts. Plain functions of numbers: nothing here touches the page.
// x is {gamma, k, eps_m, eps_pi, r_max}, as in bounds/bound.py; the reward range is R = 2 r_max.
"use strict";

// Two numbers this close are equal: the bounds are computed to 1e-12.
const EQUAL = 1e-12;
// No power of a number below 1 is above the smallest float after this many steps.
const FOREVER = 1e300;

// 1 - base^exponent in full relative precision, also for base near 1.
function oneMinusPower(base, exponent) {
  return -Math.expm1(exponent * Math.log(base));
}

// sum_{j < n} b^j = (1 - b^n) / (1 - b), and n where b = 1; b is given by its logarithm and 1 - b.
function geometric(logBase, oneMinusBase, n) {
  if (n === 0) return 0;
  return oneMinusBase === 0 ? n : -Math.expm1(n * logBase) / oneMinusBase;
}

// The first whole t >= 1 with (1-eps_pi)^t <= power, given log(1-eps_pi); FOREVER where there is none.
function firstTimeCapped(power, logQ) {
  if (power >= 1) return 1;
  if (power <= 0) return FOREVER;
  const time = Math.ceil(Math.log(power) / logQ);
  return Number.isNaN(time) ? FOREVER : Math.min(Math.max(time, 1), FOREVER);
}

// R sum_{t >= 1} gamma^t u(t, t) by parts, with u(t, i) = min{1, 1 - q^t + eps_m sum_{j < i} q^j}, q = 1 - eps_pi:
// R/(1-gamma) [ (eps_pi+eps_m) gamma sum_{j<n} (gamma q)^j + gamma^(n+1) (1 - (eps_pi+eps_m) sum_{j<n} q^j) ],
// n the last time at which u(n, n) < 1.
function optimalFull(x) {
  const { gamma: g, eps_m: m, eps_pi: p } = x;
  if (g === 0 || m + p === 0) return 0;
  const logQ = Math.log1p(-p);
  let capped = p === 0 ? 1 / m : Math.log1p(p / m) / -logQ;
  if (p === 1 || m >= 1) capped = 1;
  const n = Math.max(Math.ceil(Math.min(capped, FOREVER)) - 1, 0);
  const discounted = geometric(Math.log(g) + logQ, 1 - g + g * p, n);
  const reached = (m + p) * geometric(logQ, p, n);
  const last = g * Math.exp(n * Math.log(g));
  return (2 * x.r_max * ((m + p) * g * discounted + last * Math.max(1 - reached, 0))) / (1 - g);
}

// Longer rollouts than this change the optimal discrepancy by a share below exp(-40).
function truncationLength(g) {
  const reach = 40 - Math.log1p(-g);
  return Math.ceil((reach + Math.log(2 * reach)) / -Math.log(g)) + 1;
}

// sum_{i=1}^n s_i with s_i = (1-(1-p)^i)/p, given s_n; its binomial series where n p is small.
function sumOfDrifts(n, p, drift) {
  if (n * p > 0.5) return (n - (1 - p) * drift) / p;
  let series = 1;
  for (let order = 14; order >= 1; order--) series = 1 - ((p * (n - order)) / (order + 2)) * series;
  return ((n * (n + 1)) / 2) * series;
}

// The mean of u(t, i) over i = 1..t.
function meanOverRollouts(t, m, p, logQ) {
  const ratio = (p * Math.exp(t * logQ)) / m;
  let first = p === 0 ? 1 / m : Math.log1p(-Math.min(ratio, 1)) / logQ;
  if (m === 0 || ratio >= 1) first = FOREVER;
  // u(t, i) < 1 for i up to this
  const uncapped = Math.min(Math.max(Math.ceil(Math.min(first, t + 1)) - 1, 0), t);
  const early = uncapped * -Math.expm1(t * logQ) + m * sumOfDrifts(uncapped, p, geometric(logQ, p, uncapped));
  return (t - uncapped + early) / t;
}

// (1-gamma) sum_{t >= k} gamma^(t-k) u(t, i): i model steps, at every time from k on.
function meanOverFuture(i, k, g, m, p, logQ) {
  const logG = Math.log(g);
  const modelPart = m * geometric(logQ, p, i);
  const capped = Math.max(firstTimeCapped(modelPart, logQ), k);
  if (capped <= k) return 1;
  const atK = Math.min(modelPart - Math.expm1(k * logQ), 1);
  const increments = p * g * Math.exp(k * logQ) * geometric(logG + logQ, 1 - g + g * p, capped - 1 - k);
  if (capped >= FOREVER) return atK + increments;
  return atK + increments + Math.exp((capped - k) * logG) * Math.max(Math.exp((capped - 1) * logQ) - modelPart, 0);
}

// R sum_{t >= 1} gamma^t (1/n_t) sum_{i=1}^{n_t} u(t, i), n_t = min(t, k).
function optimalBranched(x) {
  const { gamma: g, eps_m: m, eps_pi: p } = x;
  if (g === 0 || m + p === 0) return 0;
  const logG = Math.log(g);
  const logQ = Math.log1p(-p);
  // From the time on at which one model step is capped every mean is 1; without model error k does not matter.
  const k = m === 0 ? 1 : Math.min(x.k, truncationLength(g), firstTimeCapped(m, logQ));
  let before = 0;
  for (let t = 1; t < k; t++) before += Math.exp((t - 1) * logG) * meanOverRollouts(t, m, p, logQ);
  let after = 0;
  for (let i = 1; i <= k; i++) after += meanOverFuture(i, k, g, m, p, logQ);
  return (2 * x.r_max * g * (before * (1 - g) + (Math.exp((k - 1) * logG) * after) / k)) / (1 - g);
}

// The largest real k at which Theorem 2's discrepancy is at most Theorem 1's; Infinity when that holds for every k.
// mean over i = 1..n of min(1, t p + i m)
function meanOfCapped(t, n, m, p) {
  const room = 1 - t * p;
  if (room <= 0) return 1;
  const free = m > 0 ? Math.min(n, Math.floor(room / m)) : n;
  return (free * t * p + (m * free * (free + 1)) / 2 + (n - free)) / n;
}

// Theorem 4 at errors eps_m and eps_pi at every time step: R sum_{t>=1} gamma^t mean_i min(1, t eps_pi + i eps_m).
function sumCertificate({ gamma: g, k, eps_m: m, eps_pi: p, r_max }) {
  let total = 0;
  for (let t = 1; t < k; t += 1) total += g ** t * meanOfCapped(t, t, m, p);
  const linear = k * m <= 1 ? (p > 0 ? Math.floor((1 - k * m) / p) : Infinity) : -1;
  let t = k;
  if (linear >= k) {
    const end = Number.isFinite(linear) ? g ** (linear + 1) : 0;
    const count = (g ** k - end) / (1 - g);
    const times = (k * g ** k - (end > 0 ? (linear + 1) * end : 0)) / (1 - g) + (g * (g ** k - end)) / (1 - g) ** 2;
    total += p * times + ((m * (k + 1)) / 2) * count;
    t = linear + 1;
  }
  if (p === 0) return 2 * r_max * (total + (linear < k ? (meanOfCapped(k, k, m, 0) * g ** k) / (1 - g) : 0));
  for (; t * p < 1 && g ** t > 1e-17; t += 1) total += g ** t * meanOfCapped(t, k, m, p);
  return 2 * r_max * (total + g ** t / (1 - g));
}

// Theorem 5's product form where every step loses independently of the others: a law overlaps by (1 - eps_pi) for each
// action and by (1 - eps_m) for each model step, R sum_{t>=1} gamma^t mean_i (1 - (1 - eps_pi)^t (1 - eps_m)^i).
function productCertificate({ gamma: g, k, eps_m: m, eps_pi: p, r_max }) {
  const kept = (n) => (m > 0 ? ((1 - m) * (1 - (1 - m) ** n)) / (n * m) : 1);
  let total = 0;
  for (let t = 1; t < k; t += 1) total += g ** t * (1 - (1 - p) ** t * kept(t));
  const later = g ** k / (1 - g) - (kept(k) * (g * (1 - p)) ** k) / (1 - g * (1 - p));
  return 2 * r_max * Math.max(total + later, 0);
}

function crossoverRolloutLength({ gamma, eps_m, eps_pi }) {
  const missing = (1 - gamma) * (3 + gamma) * eps_pi + (1 + gamma * gamma) * eps_m;
  const total = eps_m + eps_pi;
  return missing < total ? Math.log1p(-missing / total) / Math.log(gamma) - 1 : Infinity;
}

// R/(1-gamma), the largest difference two returns can have.
function trivialDiscrepancy({ gamma, r_max }) {
  return (2 * r_max) / (1 - gamma);
}

// What a discrepancy says. "vacuous": nothing. "exact": there is no gap. "any-model": no more than is true of every
// model, since the first reward is shared. "keeps": something.
function verdictOf(value, trivial, gamma) {
  if (value >= trivial * (1 - EQUAL)) return "vacuous";
  if (value === 0) return "exact";
  if (gamma > 0 && value >= trivial * gamma * (1 - EQUAL)) return "any-model";
  return "keeps";
}

// Every bound at x: [{name, value, share of the trivial discrepancy, verdict}], in the order of the catalogue.
function evaluateAll(x) {
  const trivial = trivialDiscrepancy(x);
  return Object.entries(FORMULAS).map(([name, formula]) => {
    const value = formula(x);
    return { name, value, share: value / trivial, verdict: verdictOf(value, trivial, x.gamma) };
  });
}

// The largest value of one error ("eps_m" or "eps_pi") at which the optimal branched discrepancy is at most this share
// of the trivial one, the rest of x staying; null when even 0 is too large.
function largestError(x, error, share) {
  const within = (value) => optimalBranched({ ...x, [error]: value }) <= share * trivialDiscrepancy(x);
  if (!within(0)) return null;
  if (within(1)) return 1;
  let [low, high] = [0, 1];
  for (let halving = 0; halving < 40; halving++) {
    const middle = (low + high) / 2;
    if (within(middle)) low = middle;
    else high = middle;
  }
  return low;
}

// The two bounds that each map compares: branched minus full model.
const MAPS = {
  paper: { branched: "m3po-th2", full: "m3po-th1" },
  optimal: { branched: "optimal-branched", full: "optimal-full" },
};

// eps_pi as a function of eps_m along each slice of the map.
const SLICES = {
  present: (x) => () => x.eps_pi,
  zero: () => () => 0,
  complement: () => (eps_m) => 1 - eps_m,
};

// Branched minus full-model discrepancy: one row for each rollout length, one column for each model error.
function differenceMap(x, map, slice, lengths, errors) {
  const [branched, full] = [FORMULAS[MAPS[map].branched], FORMULAS[MAPS[map].full]];
  const divergence = SLICES[slice](x);
  const columns = errors.map((eps_m) => ({ ...x, eps_m, eps_pi: divergence(eps_m) }));
  const fullValues = columns.map((column) => full(column));
  return lengths.map((k) => columns.map((column, at) => branched({ ...column, k }) - fullValues[at]));
}

// k* along a slice of the map, [{eps_m, k}], where it is at most longest.
function crossoverLine(x, slice, longest, points) {
  const divergence = SLICES[slice](x);
  const errors = Array.from({ length: points }, (_, at) => at / (points - 1));
  return errors
    .map((eps_m) => ({ eps_m, k: crossoverRolloutLength({ gamma: x.gamma, eps_m, eps_pi: divergence(eps_m) }) }))
    .filter(({ k }) => k <= longest);
}
