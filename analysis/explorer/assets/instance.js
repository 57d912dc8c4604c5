// The instance that attains Theorem 3 (bounds/finite/worst_case.py), run step by step.
// A label U, uniform on [0, 1), is drawn once. States: "mid", and the absorbing "good", which pays R more. The true
// policy never reaches good. The model sends there every label in the window of the step, and the action that only the
// policy takes; the data policy leaves for good with probability eps_pi.
"use strict";

const LONGEST_INSTANCE = 200;

// Time steps that carry all but 0.5% of the discounted weight, as far as that is at most LONGEST_INSTANCE.
function instanceHorizon(gamma) {
  const wanted = gamma === 0 ? 1 : Math.ceil(Math.log(0.005) / Math.log(gamma));
  return Math.min(Math.max(wanted, 10), LONGEST_INSTANCE);
}

// [{start, width}] of the labels that the model sends to good at step s = 0..horizon-1.
function labelWindows(eps_m, eps_pi, horizon) {
  const windows = [];
  let start = 0;
  for (let s = 0; s < horizon; s++) {
    const width = eps_m === 0 ? 0 : Math.min(1, eps_m / (1 - eps_pi) ** (s + 1));
    windows.push({ start, width });
    start = (start + width) % 1;
  }
  return windows;
}

function inWindow(label, { start, width }) {
  return width >= 1 || (label >= start ? label < start + width : label < start + width - 1);
}

// [0, 1) cut at the ends of all windows: the widths of the cells.
function labelCells(windows) {
  const ends = windows.flatMap(({ start, width }) => [start, start + width > 1 ? start + width - 1 : start + width]);
  const cuts = [...new Set([0, 1, ...ends])].filter((cut) => cut >= 0 && cut <= 1).sort((a, b) => a - b);
  return cuts.slice(1).map((cut, cell) => ({ middle: (cut + cuts[cell]) / 2, width: cut - cuts[cell] }));
}

// Runs every branch and measures. Each array has one entry per time t = 0..horizon:
//   longest[t]: mass in good at t in the branch of min(t, k) model steps;
//   mean[t]: the mean of that mass over the branches of 1..min(t, k) model steps (the branched return uses this);
//   gap[t]: model return minus true return of the first t steps, R sum_{s <= t} gamma^s mean[s].
function runInstance(x, horizon) {
  const { gamma, k, eps_m: m, eps_pi: p } = x;
  const windows = labelWindows(m, p, horizon);
  const cells = labelCells(windows);
  const inside = windows.map((window) => cells.map((cell) => inWindow(cell.middle, window)));
  const longest = new Array(horizon + 1).fill(0);
  const total = new Array(horizon + 1).fill(0);
  for (let departure = 0; departure < horizon; departure++) {
    const kept = (1 - p) ** departure;
    const mid = cells.map((cell) => cell.width * kept);
    let good = -Math.expm1(departure * Math.log1p(-p)) || 0;
    for (let s = departure; s < Math.min(departure + k, horizon); s++) {
      for (let cell = 0; cell < mid.length; cell++) {
        const moved = inside[s][cell] ? mid[cell] : mid[cell] * p;
        good += moved;
        mid[cell] -= moved;
      }
      total[s + 1] += good;
      if (s + 1 - departure === Math.min(s + 1, k)) longest[s + 1] = good;
    }
  }
  const mean = total.map((sum, t) => (t === 0 ? 0 : sum / Math.min(t, k)));
  const gap = [0];
  for (let t = 1; t <= horizon; t++) gap.push(gap[t - 1] + 2 * x.r_max * gamma ** t * mean[t]);
  return { horizon, windows, longest, mean, gap };
}
