"""docs/theory.md renders on GitHub, its numbers are the code's, and what it points to exists."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import bounds
from bounds.paper import crossover_rollout_length
from bounds.proof import Proof
from bounds.proofs import prove_all

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "theory.md").read_text()
CLAIMS = (ROOT / "docs" / "claims.md").read_text()


def split_math(page: str) -> tuple[list[str], list[str], str]:
    """(displayed formulas, inline formulas, what is left) of a page without its code."""
    prose = re.sub(r"```.*?```", "", page, flags=re.S)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    display = re.findall(r"\$\$(.+?)\$\$", prose, flags=re.S)
    prose = re.sub(r"\$\$.+?\$\$", "", prose, flags=re.S)
    inline = re.findall(r"\$([^$\n]+)\$", prose)
    return display, inline, re.sub(r"\$[^$\n]+\$", "", prose)


def faults(formula: str, *, inline: bool) -> list[str]:
    """What would keep GitHub from rendering the formula as written."""
    found = []
    if formula.count("{") != formula.count("}"):
        found.append("braces")
    if formula.count(r"\left") - formula.count(r"\leftarrow") != formula.count(r"\right") - formula.count(
        r"\rightarrow"
    ):
        found.append("left and right")
    # Markdown eats a backslash before punctuation, and takes these characters for its own
    found += [mark for mark in (r"\{", r"\}", r"\,", r"\;", r"\!", r"\|", r"\_", "<", ">", "*", "|") if mark in formula]
    if r"\\" in formula:
        found.append("line break")
    if inline and (re.search(r"[)}\]]_", formula) or formula != formula.strip()):
        found.append("emphasis or space at the edge")
    return found


def test_every_formula_renders() -> None:
    display, inline, rest = split_math(PAGE)
    assert len(display) > 15
    assert len(inline) > 200
    assert "$" not in rest, re.findall(r".*\$.*", rest)
    wrong = {f: faults(f, inline=False) for f in display} | {f: faults(f, inline=True) for f in inline}
    assert {f: found for f, found in wrong.items() if found} == {}
    assert "\n\n" not in "".join(display)


@pytest.mark.parametrize("formula", ["a_{b", r"\left( a )", r"R \{ a \}", "C^*", "a < b", r"\rho^{(i)}_t", " a"])
def test_the_check_can_fail(formula: str) -> None:
    assert faults(formula, inline=True)


@pytest.mark.parametrize("proof", prove_all(), ids=lambda proof: proof.name)
def test_the_printed_proofs_render(proof: Proof) -> None:
    display, inline, rest = split_math(proof.latex())
    assert "$" not in rest
    assert {f: faults(f, inline=False) for f in display if faults(f, inline=False)} == {}
    assert {f: faults(f, inline=True) for f in inline if faults(f, inline=True)} == {}


def test_everything_it_points_to_exists() -> None:
    for path in re.findall(r"`((?:bounds|tests|analysis|docs)/[\w/.]+)`", PAGE):
        assert (ROOT / path).is_file(), path
    headings = {
        re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", PAGE, re.M)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert anchor in headings, anchor
    for name in re.findall(r"`bounds\.([\w.]+)`", PAGE):
        module, _, attribute = f"bounds.{name}".rpartition(".")
        assert hasattr(__import__(module, fromlist=[attribute]), attribute), name


def test_every_proof_is_on_the_page() -> None:
    assert [proof.name for proof in prove_all() if f"`{proof.name}`" not in PAGE] == []


def test_the_table_is_the_catalogue() -> None:
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| 0\.\d+ \| \d+ \|", line)]
    names = re.search(r"^\| gamma \| k \| eps_m \| eps_pi \| (.+) \|$", PAGE, re.M)
    assert names is not None
    assert len(lines) == 6
    for discount, length, model_error, divergence, *values in lines:
        for name, printed in zip(names[1].split(" | "), values, strict=True):
            value = bounds.get(name).evaluate(
                discount=float(discount),
                model_error=float(model_error),
                policy_divergence=float(divergence),
                rollout_length=int(length),
            )
            decimals = len(printed.partition(".")[2])
            half_unit = 0.5000001 * 10.0**-decimals if decimals >= 6 else 0.0
            assert math.isclose(float(value), float(printed), rel_tol=1e-13, abs_tol=half_unit), (name, printed)


def test_the_crossover_on_the_page() -> None:
    star = float(crossover_rollout_length(discount=0.9, model_error=0.1, policy_divergence=0.3))
    assert f"$k^\\ast = {star:.4f}$, so {math.floor(star)} is the last" in PAGE


def test_the_papers_claims_name_proofs_that_hold_and_bounds_as_large_as_they_say() -> None:
    theory, experiments = CLAIMS.split("## Experiments")
    held = {proof.name for proof in prove_all() if proof.holds}
    named = re.findall(r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", theory)
    assert len(named) >= 10
    assert [name for name in named if name not in held] == []
    assert not re.search(r"`[a-z0-9]+(?:-[a-z0-9]+)+`", experiments)
    shares = {
        name: 100 * float(bounds.get(name).evaluate(discount=0.95, model_error=0.1, policy_divergence=0.1)) / 40
        for name in ("m3po-th1", "m3po-th2")
    }
    for name, share in shares.items():
        assert f"{share:.1f}%" in theory, name
