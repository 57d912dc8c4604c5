"""How every command refuses its input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


def refusal(cli: Callable[[Sequence[str]], object], words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr with which a command refuses ``words``, with exit code 2 and nothing on stdout."""
    with pytest.raises(SystemExit) as stop:
        cli([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert len(err) < 300
    return err
