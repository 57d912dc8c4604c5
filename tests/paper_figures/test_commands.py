"""The figures' commands: their flags, and data that are ruined in every way a file can be."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from analysis.runs import anchors
from paper_figures import __main__ as every_figure
from paper_figures import (
    certificate_through_training,
    certified_by_age,
    figure6,
    figure7,
    figure9_point_mass,
)
from paper_figures.__main__ import FIGURES
from tests.command_errors import refusal

DATA = Path(figure7.__file__).parent / "data"
# What each figure reads: module, name of its constant, the file that is ruined.
READ: list[tuple[ModuleType, str, str]] = [
    (certificate_through_training, "DATA", "certificate_through_training.csv"),
    (certified_by_age, "DATA", "certified_by_age.csv"),
    (figure7, "CURVES", "comparison.csv"),
    (figure7, "FINALS", "comparison_finals.csv"),
    (figure9_point_mass, "DATA", "variants_switching_point_mass.csv"),
]


def without_comments(text: bytes) -> list[bytes]:
    return [line for line in text.splitlines(keepends=True) if not line.startswith(b"#")]


def with_last_cell(replace: bytes) -> Callable[[bytes], bytes]:
    """The first row with something else in its column of returns, or its last number."""

    def ruin(text: bytes) -> bytes:
        head, row, *rest = without_comments(text)
        column = next((i for i, name in enumerate(head.split(b",")) if name.strip() in (b"return", b"share")), 6)
        cells = row.rstrip(b"\n").split(b",")
        cells[column] = replace
        return b"".join([head, b",".join(cells) + b"\n", *rest])

    return ruin


RUINED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "no rows": lambda text: without_comments(text)[0],
    "no header": lambda text: b"".join(without_comments(text)[1:]),
    "cut within a line": lambda text: text[:-5],
    "cut in the middle": lambda text: text[: len(text) // 2 - 7],
    "nan": with_last_cell(b"nan"),
    "infinite": with_last_cell(b"1e999"),
    "text": with_last_cell(b"=1+1"),
    "decimal comma": with_last_cell(b"1,9"),
    "no cell": with_last_cell(b""),
    "not text": lambda text: b"\x89PNG\xff\xfe\x00" + text,
}


@pytest.mark.parametrize("way", RUINED)
@pytest.mark.parametrize(("module", "constant", "name"), READ, ids=[name for *_, name in READ])
def test_a_ruined_table_is_refused(
    module: ModuleType, constant: str, name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    file = tmp_path / name
    file.write_bytes(RUINED[way]((DATA / name).read_bytes()))
    monkeypatch.setattr(module, constant, file)
    monkeypatch.setattr(module.load, "__defaults__", tuple(
        file if default_is(module, constant, place) else default
        for place, default in enumerate(module.load.__defaults__)
    ))  # fmt: skip
    assert name in refusal(module.cli, ["--out", str(tmp_path / "new.png")], capsys)
    assert not (tmp_path / "new.png").exists()


def default_is(module: ModuleType, constant: str, place: int) -> bool:
    """Whether this default of ``load`` is the constant's."""
    return place == {"DATA": 0, "CURVES": 0, "FINALS": 1}[constant]


@pytest.mark.parametrize("way", ["empty", "cut", "text", "grey", "missing"])
def test_a_ruined_picture_is_refused(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    shutil.copytree(DATA, tmp_path / "data")
    file = tmp_path / "data" / "environment_AntFwdBwd.png"
    content = file.read_bytes()
    if way == "grey":
        from PIL import Image

        Image.open(file).convert("L").save(file)
    elif way == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no picture"}[way])
    monkeypatch.setattr(figure6.load, "__defaults__", (tmp_path / "data",))
    assert file.name in refusal(figure6.cli, ["--out", str(tmp_path / "new.png")], capsys)


@pytest.mark.parametrize("module", [figure7, figure9_point_mass])
@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b'{"policies": {"random": {"return": NaN}}}', b'{"policies": 3}', b"[" * 10**5, b"\xff"],
)
def test_ruined_anchors_are_refused(
    module: ModuleType, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    file = tmp_path / "anchors.json"
    file.write_bytes(content)
    monkeypatch.setattr(anchors, "COMMITTED", file)
    assert file.name in refusal(module.cli, ["--out", str(tmp_path / "new.png")], capsys)


@pytest.mark.parametrize("name", FIGURES)
def test_where_to_draw_is_checked_before_drawing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    module = FIGURES[name]
    monkeypatch.setattr(module, "load", pytest.fail)
    there = tmp_path / "there.png"
    there.write_text("mine")
    for path, named in ((there, "--overwrite"), (tmp_path / "a.txt", ".png"), (tmp_path / "b", ".png")):
        assert named in refusal(module.cli, ["--out", str(path)], capsys)
    assert there.read_text() == "mine"


def test_every_figure_is_drawn_and_only_its_own_picture_is_replaced(tmp_path: Path, monkeypatch, capsys) -> None:
    places = tmp_path / "docs" / "images"
    places.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    images = {image for module in FIGURES.values() for image in module.IMAGES.values()}
    for words, drawn in (([], images), (["--only", "figure6"], {figure6.IMAGE})):
        with pytest.raises(SystemExit) as stop:
            every_figure.cli(words)
        assert stop.value.code == 0
        assert {Path(line) for line in capsys.readouterr().out.splitlines()} == drawn
    assert {Path("docs/images", each.name) for each in places.iterdir()} == images  # nothing unfinished is left
    for path in images:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) < 400_000
    (places / "figure4.png").replace(places / "environments.png")
    assert "environments.png" in refusal(figure6.cli, [], capsys)


def test_only_some_figures_into_a_directory(tmp_path: Path, capsys) -> None:
    for words, code in itertools.product((["--only", "figure6", "--out", str(tmp_path / "new")],), (0, 2)):
        with pytest.raises(SystemExit) as stop:
            every_figure.cli(words)
        assert stop.value.code == code
        (tmp_path / "new" / "environments.png").write_bytes(b"mine")
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'new' / 'environments.png'}\n"
    assert "--overwrite" in err
    assert (tmp_path / "new" / "environments.png").read_bytes() == b"mine"
    for words in (["--only", "figure5"], ["--only", "figure6", "figure6"], ["--out", str(Path(__file__))]):
        refusal(every_figure.cli, [*words], capsys)
