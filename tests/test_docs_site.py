"""Pages name files, anchors, commands and flags that exist; the site builds without warnings and needs no network."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from m3po import launcher
from m3po.config import ALGORITHMS
from tests.tutorial_page import ROOT, run_command

DOCS = ROOT / "docs"
PAGES = tuple(
    sorted(path for folder in (ROOT, DOCS, DOCS / "tutorials", DOCS / "environments") for path in folder.glob("*.md"))
)
PACKAGES = ("bounds", "m3po", "analysis", "paper_figures")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code_of(page: str) -> list[str]:
    """The lines of all fenced blocks, continued lines joined, and all inline code of a page."""
    fences = [fence.replace("\\\n", " ") for fence in FENCE.findall(page)]
    lines = [line for fence in fences for line in fence.splitlines()[1:-1]]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", page))]


def commands_of(code: list[str]) -> list[tuple[str, list[str]]]:
    """(module, flags) of every ``python -m MODULE ...`` and ``m3po COMMAND ...`` of this project.

    Raises:
        ValueError: when ``m3po`` has no such command.
    """
    found = []
    for line in code:
        for module, rest in re.findall(r"python -m ([\w.]+)([^;&|#]*)", line):
            if module.partition(".")[0] in PACKAGES:
                found.append((module, flags_in(rest)))
        for words in re.findall(r"(?:^|\$ |[;&|] |\bdo |[A-Z]=\d+ )m3po ([a-z][^;&|#]*)", line.lstrip()):
            if not words.startswith("completion "):
                command, *_ = launcher.chosen(words.split())
                found.append((command.module.removesuffix(".__main__"), flags_in(words)))
    return found


def flags_in(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)


@cache
def flags_of(module: str) -> frozenset[str]:
    """The flags that ``python -m module --help`` lists."""
    path = ROOT.joinpath(*module.split("."))
    source = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    if "m3po.command_line" not in source.read_text():
        return frozenset()  # it takes no flags, and would run
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("COLUMNS", "200")
        for each in ALGORITHMS if module == "m3po.train" else (None,):
            run_command(f"python -m {module} --help" + ("" if each is None else f" --algorithm {each}"))
    return frozenset(flags_in(printed.getvalue())) | {"--help"}


def command_modules() -> list[str]:
    """Every module that can be run as a command."""
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sources
        if '__name__ == "__main__"' in path.read_text()
    ]
    return sorted(name.removesuffix(".__main__") for name in names)


def anchors_of(path: Path) -> set[str]:
    """The anchors that a git host and the site give to the headings of a page."""
    text = FENCE.sub("", path.read_text())
    slugs: list[str] = []
    for title in re.findall(r"^#+ (.+)$", text, re.M):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "]", title).lower()).strip().replace(" ", "-")
        count = slugs.count(plain)
        slugs.append(plain if count == 0 else f"{plain}-{count}")
    return set(slugs)


def broken_links(path: Path, text: str) -> list[str]:
    """Relative links and images of a page that lead nowhere."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", FENCE.sub("", text))):
        split = urlsplit(target)
        if split.scheme:
            continue
        file = path.parent / unquote(split.path) if split.path else path
        if not file.exists() or (split.fragment and file.suffix == ".md" and split.fragment not in anchors_of(file)):
            broken.append(target)
    return broken


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


@pytest.mark.parametrize(
    "link", ["[a](nowhere.md)", "![a](images/nothing.png)", "[a](theory.md#no-such-heading)", "[a](#no-such-heading)"]
)
def test_a_broken_link_is_noticed(link: str) -> None:
    page = DOCS / "certify.md"
    assert len(broken_links(page, page.read_text() + link)) == 1


def misnumbered(text: str) -> list[str]:
    """Items of numbered lists that a browser numbers otherwise: it counts on from the first one of a list."""
    found: list[str] = []
    expected: int | None = None
    for line in FENCE.sub("", text).splitlines():
        if (item := re.match(r"(\d+)\. ", line)) is not None:
            number = int(item[1])
            found += [line] if expected not in (None, number) else []
            expected = number + 1
        elif not line:
            expected = None
    return found


@each_page
def test_lists_are_numbered_as_written(page: Path) -> None:
    assert misnumbered(page.read_text()) == []


def test_a_misnumbered_list_is_noticed() -> None:
    assert misnumbered("1. a\n   b\n2. c\nd\n3. e\n\n5. f\n6. g\n") == []
    assert misnumbered("1. a · 2. b ·\n3. c\n") == ["3. c"]


@each_page
def test_commands_and_their_flags_exist(page: Path) -> None:
    for module, flags in commands_of(code_of(page.read_text())):
        assert module in command_modules(), f"python -m {module}"
        unknown = [flag for flag in flags if flag not in flags_of(module)]
        assert unknown == [], f"python -m {module} {' '.join(unknown)}"


@each_page
def test_flags_named_alone_exist(page: Path) -> None:
    known = frozenset().union(*map(flags_of, command_modules()))
    named = [flag for span in code_of(page.read_text()) if span.startswith("--") for flag in flags_in(span)]
    assert [flag for flag in named if flag not in known] == []


@each_page
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = [
        word
        for line in code_of(page.read_text())
        if (match := re.match(r"(?:\$ )?make((?: +[\w=/.-]+)+)", line))
        for word in match[1].split()
        if "=" not in word
    ]
    assert [word for word in named if word not in targets] == []


def test_commands_are_found_in_text() -> None:
    page = (
        "Text `python -m analysis.certify FILE --json` and\n\n```\nfor s in 0; do python -m m3po.train --seed $s \\\n"
    )
    page += "    --run-dir r; done\npython -m pip install --upgrade x\n$ python -m a.b\n```\nand `--from-\nhere`\n"
    page += "`m3po explore`, `m3po/Ant` and\n```\n$ m3po bounds compare --k 1\n. x && m3po completion bash\n"
    page += "for s in 0; do m3po render r --seed $s; done\n  OMP_NUM_THREADS=1 m3po check r --json\n```\n"
    assert commands_of(code_of(page)) == [
        ("m3po.train", ["--seed", "--run-dir"]),
        ("analysis.compare_bounds", ["--k"]),
        ("analysis.render", ["--seed"]),
        ("analysis.check_guarantee", ["--json"]),
        ("analysis.certify", ["--json"]),
        ("analysis.explorer", []),
    ]
    with pytest.raises(ValueError, match="did you mean compare"):
        commands_of(["m3po bounds compere"])
    assert "--json" in flags_of("analysis.compare_bounds")
    assert "--no-such-flag" not in flags_of("analysis.compare_bounds")


class Page(HTMLParser):
    """Ids, links and loaded files of a page of the site."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("link", "script", "img", "iframe", "source"):
            self.loaded += [values[name] for name in ("src", "href") if name in values]


def faults_of(site: Path) -> list[str]:
    """Links of a built site that lead nowhere, and everything it loads that is not its own."""
    pages = {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}
    faults = []
    for path, page in pages.items():
        for target in page.links + page.loaded:
            split = urlsplit(target)
            if split.scheme or split.netloc:
                if target in page.loaded and split.scheme != "data":
                    faults.append(f"{path.name} loads {target}")
                continue
            file = (path.parent / unquote(split.path)).resolve() if split.path else path
            if not file.exists():
                faults.append(f"{path.name} links to {target}")
            elif split.fragment and file in pages and unquote(split.fragment) not in pages[file].ids:
                faults.append(f"{path.name} links to {target}, an anchor that is not there")
    return faults


@pytest.mark.slow
def test_the_site_builds_and_is_whole(tmp_path: Path) -> None:
    """One test, so that the site is built once."""
    site = tmp_path / "site"
    options = ["-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(site)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    assert built.returncode == 0, built.stderr
    assert faults_of(site) == []

    theory = (site / "theory.html").read_text()
    assert theory.count('<div class="math"><math') > 15
    assert theory.count('<span class="math"><math') > 200
    assert "<script>" not in theory or "MathJax" not in theory
    assert 'href="api/generated/bounds.finite.process.html"' in theory  # the sidebar goes down to every module
    assert "model_steps" in (site / "algorithm.html").read_text()
    reference = [
        importlib.util.find_spec(name) for name in ("bounds.finite.process", "m3po.agents.sac", "analysis.certify")
    ]
    for spec in reference:
        assert spec is not None
        assert f'id="module-{spec.name}"' in (site / "api" / "generated" / f"{spec.name}.html").read_text()
    # What a page with faults looks like to this test:
    (site / "bad.html").write_text(
        '<a href="none.html"></a><a href="theory.html#none"></a><img src="https://a.b/c.png">'
    )
    assert len(faults_of(site)) == 3
