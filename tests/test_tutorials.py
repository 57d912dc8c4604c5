"""Every tutorial runs as it stands on its page, and prints what the page shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from tests.notebook import NOTEBOOKS, TUTORIALS, notebook_of, notebook_path
from tests.tutorial_page import ROOT, agrees, differences, looks_different, steps_of

PAGES = (
    "docs/quick_start.md",
    "docs/certify.md",
    "docs/tutorials/break_a_bound.md",
    "docs/tutorials/certify_from_older_data.md",
    "docs/tutorials/certify_in_python.md",
    "docs/tutorials/finite_processes.md",
    "docs/tutorials/statistics_of_runs.md",
    "docs/tutorials/train_compare_draw.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_page_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    found = differences(ROOT / page, tmp_path)
    assert not found, "\n".join(["run python -m tests.notebook " + page, *found])


def test_every_tutorial_is_run() -> None:
    assert {f"docs/tutorials/{path.name}" for path in (ROOT / "docs" / "tutorials").glob("*.md")} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_has_something_to_run(page: str) -> None:
    steps = steps_of((ROOT / page).read_text())
    assert sum(step.shown is not None and step.shown.strip() not in ("", "...") for step in steps) >= 2


@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_the_notebook_is_the_page(page: Path) -> None:
    assert notebook_path(page).read_text() == notebook_of(page), f"run python -m tests.notebook {page}"
    assert f"](../../notebooks/{page.stem}.ipynb)" in page.read_text()


def test_every_notebook_has_a_page() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {path.stem for path in TUTORIALS.glob("*.md")}


def test_every_picture_is_on_a_page() -> None:
    shown = {step.picture for page in PAGES for step in steps_of((ROOT / page).read_text()) if step.picture}
    assert shown == {f"images/{path.name}" for path in (TUTORIALS / "images").iterdir()}


def test_a_notebook_has_what_the_page_shows(tmp_path: Path) -> None:
    page = TUTORIALS / "small.md"  # it is not written there: links lead from there
    image.imsave(tmp_path / "x.png", np.zeros((2, 2)))
    text = SMALL_PAGE + "See [a](../certify.md#b), [c](https://d.e) and [f](#g).\n\n```python\n1\n```\n\n"
    text += f"![x]({tmp_path}/x.png)\nEnd.\n"
    notebook = json.loads(notebook_of(page, text))
    cells = [(cell["cell_type"], "".join(cell["source"]), cell.get("outputs")) for cell in notebook["cells"]]
    assert cells[0] == ("markdown", "Some text.", None)
    assert cells[1][1] == 'x = 1.25\nprint(x)\nprint("done")'
    assert cells[1][2] == [{"name": "stdout", "output_type": "stream", "text": ["1.3\n", "done\n"]}]
    assert cells[2][1] == "!python -m analysis.compare_bounds --gamma 0.9 \\\n    --k 1"
    assert cells[3][:2] == ("code", "!python -m a && python -m b")
    assert cells[4][:2] == ("markdown", "See [a](../docs/certify.md#b), [c](https://d.e) and [f](#g).")
    assert cells[5][1] == "1"
    assert [list(each["data"]) for each in cells[5][2]] == [["image/png"]]
    assert cells[6][1] == "End."
    assert len({cell["id"] for cell in notebook["cells"]}) == len(cells) == 7


def test_a_picture_that_changed_is_noticed(tmp_path: Path) -> None:
    shown, drawn = tmp_path / "shown.png", tmp_path / "drawn.png"
    assert str(looks_different(shown, drawn)) == "drawn.png was not drawn"
    grey = np.full((20, 20), 0.5)
    image.imsave(shown, grey, vmin=0, vmax=1)
    image.imsave(drawn, grey, vmin=0, vmax=1)
    assert looks_different(shown, drawn) is None
    grey[:3] = 1.0
    image.imsave(drawn, grey, vmin=0, vmax=1)
    assert looks_different(shown, drawn) is not None
    assert looks_different(shown, drawn, varying=True) is None
    image.imsave(drawn, np.zeros((10, 20)))
    assert "sizes do not match" in str(looks_different(shown, drawn))


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
    assert first.commands[0] == "python -m analysis.compare_bounds --gamma 0.9 --k 1"
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
