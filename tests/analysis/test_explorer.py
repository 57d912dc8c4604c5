"""The explorer: its JavaScript in node against ``bounds/``, and the page in a real headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import bounds
from analysis.explorer import __main__, tracing
from analysis.theory import comparison
from bounds import optimal
from bounds.bound import Bound
from bounds.finite.worst_case import attaining_instance, finite_horizon_discrepancy
from bounds.paper import crossover_rollout_length
from paper_figures import figure4
from tests.analysis.browser import Page, browser, executable

PAGE = __main__.page()
# The points of the table in docs/theory.md: gamma, k, eps_m, eps_pi.
TABLE = (
    (0.95, 1, 0.1, 0.1),
    (0.95, 5, 0.1, 0.1),
    (0.9, 1, 0.2, 0.0),
    (0.9, 10, 0.05, 0.02),
    (0.99, 1, 0.01, 0.01),
    (0.85, 50, 0.3, 0.7),
)
OPTIMAL_BRANCHED = (29.152219504202, 31.652761276829, 3.6, 6.273443375473, 101.467537521858, 11.333333333333)
node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node is not installed (on Debian: apt-get install nodejs)"
)


def point(gamma: float, k: int, eps_m: float, eps_pi: float, r_max: float = 1.0) -> dict[str, float]:
    return {"gamma": gamma, "k": k, "eps_m": eps_m, "eps_pi": eps_pi, "r_max": r_max}


def random_points(number: int = 400) -> list[dict[str, float]]:
    """Both ends of every range, uniform values, and values at every distance from the ends."""
    rng = np.random.default_rng(7)

    def error() -> float:
        return float(rng.choice([0.0, 1.0, rng.uniform(), rng.uniform(), 10 ** rng.uniform(-8, 0)]))

    points = []
    for index in range(number):
        gamma = (rng.choice([0.0, 0.9999]), rng.uniform(0, 0.9999), 1 - 10 ** rng.uniform(-4, 0))[index % 3]
        length = (1, 1000, int(rng.integers(2, 10)), int(rng.integers(1, 1001)))[index % 4]
        points.append(point(float(gamma), length, error(), error(), float(10 ** rng.uniform(-2, 3))))
    return points


def arguments(points: list[dict[str, float]]) -> dict[str, Any]:
    """The points as ``Bound.evaluate`` takes them."""
    names = {
        "gamma": "discount",
        "k": "rollout_length",
        "eps_m": "model_error",
        "eps_pi": "policy_divergence",
        "r_max": "reward_max",
    }
    return {name: np.array([x[key] for x in points]) for key, name in names.items()}


def computed(expression: str, given: Any, *, page: str = PAGE) -> Any:
    """The value of a JavaScript expression of ``given``, after the page's own mathematics ran in node."""
    scripts = re.findall(r"<script>\n(.*?)</script>", page, flags=re.S)
    program = f"{scripts[0]}\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify({expression}));"
    ran = subprocess.run(["node", "-"], input=program, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def check_bounds(points: list[dict[str, float]], page: str = PAGE) -> None:
    """Every bound of the page in node against the catalogue."""
    rows = computed("given.map(evaluateAll)", points, page=page)
    for at, bound in enumerate(bounds.ALL_BOUNDS):
        assert {row[at]["name"] for row in rows} == {bound.name}
        expected = bound.evaluate(**arguments(points))
        np.testing.assert_allclose([row[at]["value"] for row in rows], expected, rtol=1e-12, err_msg=bound.name)


@node
@pytest.mark.parametrize(
    "points",
    [
        pytest.param([point(*x) for x in TABLE], id="table"),
        pytest.param(random_points(), id="random"),
        pytest.param(
            [point(1 - 10.0**-n, k, m, p) for n in (5, 7, 9) for k in (1, 1000) for m, p in ((1e-9, 0), (1e-4, 1e-7))],
            id="discount near 1",
        ),
    ],
)
def test_every_bound_is_the_catalogues(points):
    check_bounds(points)


@node
def test_the_printed_optimum():
    values = computed("given.map(optimalBranched)", [point(*x) for x in TABLE])
    np.testing.assert_allclose(values, OPTIMAL_BRANCHED, rtol=1e-12)


@node
@pytest.mark.parametrize(
    ("right", "wrong"), [("1 - g + g * p, n)", "1 - g, n)"), ("(t - uncapped + early) / t", "early / t")]
)
def test_a_fault_in_the_page_is_noticed(right, wrong):
    assert right in PAGE
    with pytest.raises(AssertionError, match="optimal-"):
        check_bounds(random_points(100), PAGE.replace(right, wrong))


@node
def test_the_crossover():
    points = [*random_points(), point(0.9, 1, 0.1, 0.3), point(0.9, 1, 0, 0)]
    # JSON has no infinity: node writes null
    stars = [np.inf if star is None else star for star in computed("given.map(crossoverRolloutLength)", points)]
    given = arguments(points)
    expected = crossover_rollout_length(**{key: given[key] for key in ("discount", "model_error", "policy_divergence")})
    assert 20 < np.isfinite(expected).sum() < len(points) - 20
    np.testing.assert_allclose(stars, expected, rtol=1e-9, atol=1e-9)
    assert stars[-2] == pytest.approx(11.9697, abs=5e-5)


@node
def test_a_verdict_is_that_of_the_command_line():
    words = {"vacuous": "vacuous", "exact": "exact", "any-model": "holds for any model", "keeps": "keeps"}
    points = [*random_points(), *(point(*x) for x in TABLE), point(0.0, 1, 0.5, 0.5)]
    seen = set()
    for x, rows in zip(points, computed("given.map(evaluateAll)", points), strict=True):
        trivial = 2 * x["r_max"] / (1 - x["gamma"])
        for row in rows:
            said = comparison._verdict(row["value"], trivial, x["gamma"])
            assert said.startswith(words[row["verdict"]]), (x, row)
            assert row["share"] == pytest.approx(row["value"] / trivial, rel=1e-12)
            seen.add(row["verdict"])
    assert seen == set(words)


@node
@pytest.mark.parametrize(("map_name", "names"), [("paper", ()), ("optimal", ("optimal-branched", "optimal-full"))])
def test_the_map_is_figure_4(map_name, names):
    panels = figure4.load(*names)
    for slice_name, row in (("zero", panels[0]), ("complement", panels[1])):
        panel = row[1]
        columns = slice(None, None, 20)
        given = {
            "x": point(panel.discount, 1, 0.3, 0.3),
            "lengths": panel.rollout_length.tolist(),
            "errors": panel.model_error[columns].tolist(),
        }
        values = computed(f"differenceMap(given.x, '{map_name}', '{slice_name}', given.lengths, given.errors)", given)
        np.testing.assert_allclose(values, panel.difference[:, columns], rtol=1e-10, atol=1e-11)


@node
def test_the_map_at_the_present_divergence():
    x = point(0.9, 1, 0.4, 0.3, 2.5)
    values = computed("differenceMap(given, 'paper', 'present', [3], [0.1])", x)
    errors: dict[str, Any] = {"discount": 0.9, "model_error": 0.1, "policy_divergence": 0.3, "reward_max": 2.5}
    branched = bounds.get("m3po-th2").evaluate(**errors, rollout_length=3)
    assert values[0][0] == pytest.approx(branched - bounds.get("m3po-th1").evaluate(**errors), rel=1e-12)


@node
def test_the_crossover_line():
    x = point(0.9, 1, 0.4, 0.3)
    line = computed("crossoverLine(given, 'complement', 50, 21)", x)
    errors = np.linspace(0, 1, 21)
    expected = crossover_rollout_length(discount=0.9, model_error=errors, policy_divergence=1 - errors)
    on_the_map = expected <= 50
    assert 2 < on_the_map.sum() < 21
    np.testing.assert_allclose([at["eps_m"] for at in line], errors[on_the_map], atol=1e-15)
    np.testing.assert_allclose([at["k"] for at in line], expected[on_the_map], rtol=1e-12)


@node
@pytest.mark.parametrize(
    ("x", "horizon"),
    [
        (point(0.95, 1, 0.1, 0.1), 30),
        (point(0.9, 5, 0.05, 0.02, 3.0), 40),
        (point(0.99, 400, 0.003, 0.004), 25),
        (point(0.9, 3, 0.7, 0.6), 8),
        (point(0.8, 2, 0.4, 0.0), 12),
        (point(0.8, 2, 0.0, 0.3), 12),
        (point(0.8, 2, 0.3, 1.0), 12),
    ],
)
def test_the_animated_instance_is_the_exact_one(x, horizon):
    ran = computed(f"runInstance(given, {horizon})", x)
    k, m, p, r_max = int(x["k"]), x["eps_m"], x["eps_pi"], x["r_max"]
    instance = attaining_instance(m, p, horizon, reward_low=-r_max, reward_high=r_max)
    assert ran["gap"][-1] == pytest.approx(-instance.return_gap(x["gamma"], "averaged", k), rel=1e-11)
    for t in range(1, horizon + 1):
        assert ran["gap"][t] == pytest.approx(finite_horizon_discrepancy(x["gamma"], k, m, p, t, 2 * r_max), rel=1e-11)
    exact = [finite_horizon_discrepancy(1.0, k, m, p, t, 1.0, "exact") for t in range(horizon + 1)]
    np.testing.assert_allclose(ran["longest"][1:], np.diff(exact), atol=1e-12)


@node
def test_the_certificates_from_data_are_theorems_4_and_5() -> None:
    """Against Theorem 4 of the comparison, and Theorem 5's product summed term by term; the second is never larger."""
    points = [
        point(gamma, k, eps_m, eps_pi)
        for gamma in (0.0, 0.5, 0.95)
        for k in (1, 5, 40)
        for eps_m in (0.0, 0.02, 0.3, 1.0)
        for eps_pi in (0.0, 0.001, 0.13, 1.0)
    ]
    found = computed("given.map((x) => [sumCertificate(x), productCertificate(x)])", points)
    for x, (total, product) in zip(points, found, strict=True):
        config = comparison.CompareConfig(discount=x["gamma"], model_error=x["eps_m"], policy_divergence=x["eps_pi"])
        expected = comparison.certificate_of_constant_errors(config, int(x["k"]))
        assert total == pytest.approx(expected, rel=1e-9, abs=1e-12), x
        t = np.arange(1, 1500)[:, None]
        i = np.arange(1, int(x["k"]) + 1)[None]
        terms = np.where(i <= t, (1 - x["eps_pi"]) ** t * (1 - x["eps_m"]) ** i, 0.0)
        loss = 1 - terms.sum(axis=1) / np.minimum(t[:, 0], x["k"])
        assert product == pytest.approx(2 * np.sum(x["gamma"] ** t[:, 0] * loss), rel=1e-9, abs=1e-9), x
        assert product <= total + 1e-9


@node
def test_the_shown_part_of_the_instance_approaches_the_optimum():
    x = point(0.95, 5, 0.1, 0.1)
    gap, horizon = computed("[runInstance(given, instanceHorizon(0.95)).gap, instanceHorizon(0.95)]", x)
    assert len(gap) == horizon + 1
    assert 0.99 * OPTIMAL_BRANCHED[1] < gap[-1] < OPTIMAL_BRANCHED[1]
    assert computed("given.map(instanceHorizon)", [0, 0.5, 0.9999]) == [10, 10, 200]


@node
@pytest.mark.parametrize("error", ["eps_m", "eps_pi"])
def test_the_allowed_error(error):
    x = point(0.95, 3, 0.01, 0.02)
    largest = computed(f"largestError(given, '{error}', 0.5)", x)
    given = {key: values[0] for key, values in arguments([{**x, error: largest}]).items()}
    assert bounds.get("optimal-branched").evaluate(**given) == pytest.approx(20, rel=1e-9)
    assert computed(f"largestError(given, '{error}', 0.5)", point(0.95, 3, 0.9, 0.9)) is None
    assert computed(f"largestError(given, '{error}', 1)", x) == 1


def test_a_new_closed_form_needs_no_javascript():
    formula = tracing.javascript(bounds.get("linear-full"))
    assert formula == ("(x) => ((((2 * x.r_max) * x.gamma) * (x.eps_m + x.eps_pi)) / ((1 - x.gamma) ** 2))")


@pytest.mark.parametrize("formula", [optimal.OPTIMAL_BRANCHED.formula, lambda x: np.exp(x.gamma), lambda x: x.k + "1"])
def test_a_series_without_javascript_is_named(formula):
    whole = bounds.get("optimal-branched")
    bound = Bound("new-series", whole.source, whole.assumptions, whole.scheme, whole.expression, formula)
    with pytest.raises(ValueError, match="new-series is not a closed form"):
        tracing.javascript(bound)


def test_the_page_is_self_contained():
    without_namespaces = PAGE.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in without_namespaces
    assert not re.search(r"\b(src|href)=|url\((?!#)|@import|\bimport\b|\bfetch\b|XMLHttpRequest|WebSocket", PAGE)
    assert re.search(r"\$(style|catalogue|mathematics|drawing|application)\b", PAGE) is None
    assert PAGE.count("<script") == PAGE.count("</script>") == 4


def test_the_catalogue_on_the_page():
    listed = re.search(r'<script type="application/json" id="catalogue">(.*?)</script>', PAGE, flags=re.S)
    assert listed is not None
    entries = json.loads(listed[1])
    assert [entry["name"] for entry in entries] == [bound.name for bound in bounds.ALL_BOUNDS]
    for entry, bound in zip(entries, bounds.ALL_BOUNDS, strict=True):
        assert entry["source"] == bound.source
        assert tuple(entry["assumptions"]) == bound.assumptions
        assert "$" not in entry["label"]


def test_the_command_writes_the_page(tmp_path, capsys):
    out = tmp_path / "explorer.html"
    with pytest.raises(SystemExit) as stop:
        __main__.command_line(["--out", str(out)])
    assert stop.value.code == 0
    assert out.read_text(encoding="utf-8") == PAGE
    assert capsys.readouterr().out == ""


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.command_line(["--out", str(tmp_path / "missing" / "explorer.html")])
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    """A browser page, and the address of the explorer."""
    command = executable()
    path = tmp_path_factory.mktemp("explorer") / "explorer.html"
    path.write_text(PAGE, encoding="utf-8")
    with browser(command, tmp_path_factory.mktemp("profile")) as page:
        page.resize(1280, 900)
        yield page, path.as_uri()


@pytest.fixture
def start(opened: tuple[Page, str]) -> Iterator[Page]:
    """The explorer as it opens, on a wide screen; at the end of the test nothing went wrong in it."""
    page, address = opened
    page.prefer()
    page.resize(1280, 900)
    page.problems.clear()
    page.open(address)
    yield page
    assert page.problems == []
    assert page.evaluate("performance.getEntriesByType('resource').length") == 0


def text_of(page: Page, name: str) -> str:
    return str(page.evaluate(f"document.getElementById('{name}').textContent"))


def shown_point(page: Page) -> dict[str, float]:
    """The number fields, as the page shows them."""
    fields = ("gamma", "k", "eps_m", "eps_pi", "R")
    gamma, k, eps_m, eps_pi, reward_range = (
        page.evaluate(f"Number(document.getElementById('{key}-number').value)") for key in fields
    )
    return point(gamma, k, eps_m, eps_pi, reward_range / 2)


def check_numbers(page: Page) -> None:
    """Bars and first sentence against ``bounds/`` at what the fields show."""
    x = shown_point(page)
    given = {key: values[0] for key, values in arguments([x]).items()}
    rows = page.evaluate(
        "[...document.querySelectorAll('#bars tbody tr')].map((row) => [row.dataset.bound,"
        " Number(row.querySelector('[data-value]').dataset.value), row.querySelector('[data-value]').textContent,"
        " row.querySelector('.bar span').style.width])"
    )
    trivial = 2 * x["r_max"] / (1 - x["gamma"])
    assert [name for name, *_ in rows] == [bound.name for bound in bounds.ALL_BOUNDS]
    for name, value, shown, width in rows:
        assert value == pytest.approx(bounds.get(name).evaluate(**given), rel=1e-9), name
        assert float(shown.replace(",", "")) == pytest.approx(value, rel=1e-5), name
        assert float(width.rstrip("%")) == pytest.approx(100 * min(value / trivial, 1), rel=1e-4)
    optimum = float(bounds.get("optimal-branched").evaluate(**given))
    said = re.search(r"trusted to within ([\d.,]+) \(([\d.]+)% of the range\)", text_of(page, "conclusion"))
    assert said is not None
    assert float(said[1].replace(",", "")) == pytest.approx(optimum, rel=1e-3)
    assert float(said[2]) == pytest.approx(100 * optimum / trivial, abs=0.051)


def test_it_opens_with_the_answer(start):
    assert shown_point(start) == point(0.95, 1, 0.1, 0.1)
    check_numbers(start)
    assert "29.15 (72.9% of the range)" in text_of(start, "conclusion")
    assert "399.5% of the range and says nothing" in text_of(start, "meaning")
    assert start.evaluate("document.getElementById('conclusion').getBoundingClientRect().bottom < innerHeight / 2")
    assert start.evaluate("document.getElementById('conclusion').getAttribute('aria-live')") == "polite"


@pytest.mark.parametrize(
    ("key", "press", "value"),
    [("gamma", "ArrowRight", 0.951), ("k", "ArrowUp", 4), ("eps_m", "ArrowLeft", 0.097), ("R", "End", 1000)],
)
def test_a_slider_moves_by_the_keyboard(start, key, press, value):
    before = text_of(start, "conclusion")
    start.evaluate(f"document.getElementById('{key}-slider').focus()")
    start.press(press, times=1 if press == "End" else 3 if press != "ArrowRight" else 1)
    shown = start.evaluate(f"Number(document.getElementById('{key}-number').value)")
    assert shown == value
    assert start.evaluate(f"document.getElementById('{key}-slider').getAttribute('aria-valuetext')") == str(value)
    assert text_of(start, "conclusion") != before
    check_numbers(start)


def test_a_number_is_typed(start):
    start.evaluate("document.getElementById('eps_pi-number').focus(); document.activeElement.select()")
    start.type("0.0123")
    assert shown_point(start)["eps_pi"] == 0.0123
    check_numbers(start)


def test_a_wrong_number_is_named_and_changes_nothing(start):
    before = text_of(start, "conclusion")
    start.evaluate("document.getElementById('gamma-number').focus(); document.activeElement.select()")
    start.type("1.5")
    assert "γ, discount must be a number from 0 to 0.999999, got 1.5." in text_of(start, "notice")
    assert start.evaluate("document.getElementById('gamma-number').getAttribute('aria-invalid')") == "true"
    assert text_of(start, "conclusion") == before
    start.evaluate("dispatchEvent(new Event('resize'))")
    start.settle()
    assert start.evaluate("document.getElementById('gamma-number').value") == "1.5"
    start.evaluate("document.activeElement.select()")
    start.type("0.5")
    assert text_of(start, "notice") == ""
    check_numbers(start)


def test_a_link_reproduces_the_view(start, opened):
    start.evaluate(
        "change({gamma: 0.9, k: 5, eps_m: 0.1, eps_pi: 0.3, R: 3, map: 'optimal', slice: 'complement', t: 7})"
    )
    start.evaluate("new Promise((done) => setTimeout(done, 400))")
    address = start.evaluate("location.href")
    assert address.startswith(opened[1] + "#")
    names = ("conclusion", "meaning", "crossover", "map-caption", "gap-caption", "bars")

    def shown() -> list[str]:
        return [text_of(start, name) for name in names]

    view = shown()
    start.open(opened[1])
    assert shown() != view
    start.open(address)
    assert shown() == view
    assert "k* = 11.97: " in view[2]
    assert "up to k = 11," in view[2]
    assert view[4].startswith("Measured gap after 7 steps")


def test_a_link_with_mistakes_says_so(start, opened):
    start.open(opened[1] + "#gamma=1.2&k=2.5&colour=red&eps_m=0.2")
    notice = text_of(start, "notice")
    assert "got 1.2" in notice
    assert "k, rollout length must be a whole number from 1 to 1000, got 2.5" in notice
    assert "colour=red is unknown" in notice
    assert shown_point(start) == point(0.95, 1, 0.2, 0.1)


@pytest.mark.parametrize(
    ("view", "conclusion"),
    [
        ("gamma=0.85&k=50&eps_m=0.3&eps_pi=0.7", "With these errors nothing is guaranteed."),
        ("eps_m=0&eps_pi=0", "Without errors the promised return is the true return."),
        ("gamma=0", "Only the first reward counts"),
    ],
)
def test_the_other_conclusions(start, opened, view, conclusion):
    start.open(f"{opened[1]}#{view}")
    assert text_of(start, "conclusion").startswith(conclusion)
    assert not re.search(
        "NaN|Infinity|undefined",
        start.evaluate("document.body.innerText + document.body.innerHTML.replace(/<script.*?<.script>/gs, '')"),
    )


@pytest.mark.parametrize("view", ["", "gamma=0.9999&k=1000&eps_m=0.00001&eps_pi=0.00001&R=1000000&t=200"])
@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_needs_no_sideways_scrolling(start, opened, view, width):
    start.resize(width, 844, scale=2, mobile=True)
    start.open(f"{opened[1]}#{view}")
    assert start.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    beyond = (
        "[...document.querySelectorAll('body *')].map((element) => [element.outerHTML.slice(0, 200),"
        " element.getBoundingClientRect().right]).filter(([, right]) => right > innerWidth + 0.5)"
    )
    assert start.evaluate(beyond) == []
    top, bottom = (
        start.evaluate(f"document.getElementById('{name}').getBoundingClientRect().{edge}")
        for name, edge in (("bars", "top"), ("settings", "bottom"))
    )
    assert top > bottom


def test_every_input_has_a_name_and_a_visible_focus(start):
    nameless = (
        "[...document.querySelectorAll('input')].filter((input) => !input.labels.length"
        " && !input.getAttribute('aria-label')).map((input) => input.id)"
    )
    assert start.evaluate(nameless) == []
    seen = []
    for _ in range(12):
        start.press("Tab")
        seen.append(start.evaluate("document.activeElement.id"))
        assert start.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", seen[-1]
    assert seen[:4] == ["gamma-number", "gamma-slider", "k-number", "k-slider"]
    assert seen[10:] == ["link", "reset"]


def test_the_dark_scheme(start):
    looks = (
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('#map image').getAttribute('href')]"
    )
    light = start.evaluate(looks)
    start.prefer(color_scheme="dark")
    start.settle()
    dark = start.evaluate(looks)
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[0] == "rgb(22, 22, 22)"
    assert light[1] != dark[1]


def test_the_instance_plays_and_pauses(start):
    start.evaluate("document.getElementById('play').focus()")
    before = start.evaluate("Number(document.getElementById('step').value)")
    start.press("Enter")
    assert text_of(start, "play") == "Pause"
    start.evaluate("new Promise((done) => setTimeout(done, 1000))")
    assert start.evaluate("Number(document.getElementById('step').value)") > before + 1
    start.press("Enter")
    assert text_of(start, "play") == "Play"
    stopped = text_of(start, "gap-caption")
    start.evaluate("new Promise((done) => setTimeout(done, 400))")
    assert text_of(start, "gap-caption") == stopped


def test_with_less_motion_nothing_moves_by_itself(start, opened):
    start.prefer(reduced_motion="reduce")
    start.open(opened[1])
    assert text_of(start, "play") == "Next step"
    start.evaluate("document.getElementById('play').focus()")
    before = start.evaluate("Number(document.getElementById('step').value)")
    start.press("Enter")
    start.evaluate("new Promise((done) => setTimeout(done, 400))")
    assert start.evaluate("Number(document.getElementById('step').value)") == before + 1
    assert start.evaluate("getComputedStyle(document.querySelector('.bar span')).transitionDuration") == "0s"


def test_the_measured_gap_is_said(start, opened):
    start.open(f"{opened[1]}#k=5&t=30")
    said = re.match(
        r"Measured gap after 30 steps: ([\d.]+), ([\d.]+)% of C\* = ([\d.]+)\.", text_of(start, "gap-caption")
    )
    assert said is not None
    gap = finite_horizon_discrepancy(0.95, 5, 0.1, 0.1, 30, 2.0)
    assert float(said[1]) == pytest.approx(gap, rel=1e-5)
    assert float(said[3]) == pytest.approx(OPTIMAL_BRANCHED[1], rel=1e-5)
    assert float(said[2]) == pytest.approx(100 * gap / OPTIMAL_BRANCHED[1], abs=0.051)


def test_nothing_is_cut_off_at_the_edge_of_a_chart(start, opened):
    start.open(f"{opened[1]}#gamma=0.9999&k=1000&eps_m=0.0001&eps_pi=0.00002&R=123456&map=optimal")
    cut = (
        "[...document.querySelectorAll('.chart svg')].flatMap((svg) => [...svg.querySelectorAll('text')]"
        ".filter((text) => { const [inside, around] = [text, svg].map((e) => e.getBoundingClientRect());"
        " return inside.left < around.left - 1 || inside.right > around.right + 1; })"
        ".map((text) => text.textContent))"
    )
    assert start.evaluate(cut) == []


def test_a_click_on_the_map_moves_there(start):
    box = start.evaluate(
        "(() => { const hit = document.querySelector('#map .hit'); hit.scrollIntoView({block: 'center'});"
        " const {left, top, width, height} = hit.getBoundingClientRect(); return [left, top, width, height]; })()"
    )
    where = {"x": box[0] + 0.25 * box[2], "y": box[1] + 0.5 * box[3], "button": "left", "clickCount": 1}
    for kind in ("mousePressed", "mouseReleased"):
        start.call("Input.dispatchMouseEvent", type=kind, **where)
    start.settle()
    x = shown_point(start)
    assert x["eps_m"] == pytest.approx(0.25, abs=0.002)
    assert x["k"] in (25, 26)
    check_numbers(start)
