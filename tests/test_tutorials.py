"""Every tutorial runs as it stands on its page, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tutorial_page import ROOT, agrees, differences, steps_of

PAGES = (
    "docs/quick_start.md",
    "docs/certify.md",
    "docs/tutorials/certify_in_python.md",
    "docs/tutorials/finite_processes.md",
    "docs/tutorials/statistics_of_runs.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_page_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    found = differences(ROOT / page, tmp_path)
    assert not found, "\n".join(["run python -m tests.tutorial_page " + page, *found])


def test_every_tutorial_is_run() -> None:
    assert {f"docs/tutorials/{path.name}" for path in (ROOT / "docs" / "tutorials").glob("*.md")} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_something_to_run(page: str) -> None:
    steps = steps_of((ROOT / page).read_text())
    assert sum(step.shown is not None and step.shown.strip() not in ("", "...") for step in steps) >= 2


SMALL_PAGE = """Some text.

```python
x = 1.25
print(x)
print("done")
```

<!-- numbers vary -->
```text
1.3
done
```

```
$ python -m analysis.compare_bounds --gamma 0.9 \\
    --k 1
gamma = 0.9
...
$ python -m a && python -m b
```
"""


def test_a_page_is_read_as_it_is_written() -> None:
    code, first, second = steps_of(SMALL_PAGE)
    assert code.code == 'x = 1.25\nprint(x)\nprint("done")\n'
    assert code.shown == "1.3\ndone\n"
    assert code.varying
    assert code.line == 3
    assert " ".join(first.commands[0].split()) == "python -m analysis.compare_bounds --gamma 0.9 --k 1"
    assert first.shown == "gamma = 0.9\n...\n"
    assert second.commands == ["python -m a", "python -m b"]
    assert second.shown == ""
    with pytest.raises(ValueError, match="line 3: a text block"):
        steps_of("Text.\n\n```text\n1\n```\n")


@pytest.mark.parametrize(
    ("shown", "printed", "varying", "expected"),
    [
        ("a 1.5\n", "a 1.5\n", False, True),
        ("a 1.5\n", "a 1.4\n", False, False),
        ("a 1.5\n", "a 1.4\n", True, True),
        ("holds 1.5*\n", "holds  12\n", True, True),
        ("holds 1.5\n", "violated 1.5\n", True, False),
        ("a\n...\nd\n", "a\nb\nc\nd\n", False, True),
        ("a\n...\nd\n", "a\nb\nc\n", False, False),
        ("a\nc\n", "a\nb\nc\n", False, False),
        ("", "a\n", False, False),
        ("a\n", "", False, False),
        ("...\n", "a\nb\n", False, True),
    ],
)
def test_agreement(shown: str, printed: str, varying: bool, expected: bool) -> None:
    assert agrees(shown, printed, varying=varying) is expected
