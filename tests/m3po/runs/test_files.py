"""Files and locks on file systems that lack things, and with other hands at them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3po.runs import files
from m3po.runs.files import (
    HeldError,
    Lock,
    LostError,
    append,
    create_exclusively,
    duplicate,
    is_held,
    replace_atomically,
)


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOSYS))


def test_a_link_a_folder_and_a_pipe_are_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("theirs")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    for name in ("link", "dangling", "folder", "pipe"):
        with pytest.raises(OSError, match=f"{name} is not a regular file"):
            replace_atomically(tmp_path / name, b"ours")
    assert sorted(tmp_path.iterdir()) == before
    assert target.read_text() == "theirs"
    with pytest.raises(OSError, match="pipe is not a regular file"):
        files.read_regular(tmp_path / "pipe")


@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, function, refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        replace_atomically(tmp_path / "file", b"new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize(("code", "matters"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_sync_is_one_thing_and_a_broken_disk_another(
    code: int, matters: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(code))
    if matters:
        with pytest.raises(OSError, match="Input/output"):
            replace_atomically(tmp_path / "file", b"new")
    else:
        replace_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").exists() != matters


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "file", os.write
    path.write_text("one\n")
    left = [3]

    def fill(descriptor: int, data: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, bytes(data)[: left.pop()])

    monkeypatch.setattr(os, "write", fill)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    with pytest.raises(OSError, match="No space"):
        append(descriptor, b"two two\n")
    assert path.read_text() == "one\n"
    monkeypatch.undo()
    append(descriptor, b"two\n")
    os.close(descriptor)
    assert path.read_text() == "one\ntwo\n"


@pytest.mark.parametrize("links", [True, False])
def test_a_duplicate_has_the_content_also_where_it_is_the_same_file_already(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    if not links:
        monkeypatch.setattr(os, "link", refusing(errno.EPERM))
    for _ in range(2):
        duplicate(source, target)
        assert target.read_text() == "new"
        assert os.path.samefile(source, target) == links
        assert sorted(tmp_path.iterdir()) == [source, target]


@pytest.mark.parametrize("links", [True, False])
def test_the_file_of_someone_faster_is_left_alone(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refusing(errno.ENOTSUP))
    for content in (b"first", b"second"):
        create_exclusively(tmp_path / "id", content)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("id", "first")]


def test_removing_the_lock_file_lets_no_second_writer_in(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    (tmp_path / "lock").unlink()
    with pytest.raises(HeldError):
        Lock(tmp_path)
    assert is_held(tmp_path)
    lock.check()  # nobody else can be in
    lock.release()
    assert not is_held(tmp_path)
    Lock(tmp_path).check()


def test_where_folders_cannot_be_locked_the_first_writer_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over NFS."""
    flock = fcntl.flock

    def files_only(descriptor: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", files_only)
    first = Lock(tmp_path)
    first.check()
    with pytest.raises(HeldError):
        Lock(tmp_path)
    (tmp_path / "lock").unlink()
    second = Lock(tmp_path)
    with pytest.raises(LostError, match="lock was removed or replaced while this process was writing"):
        first.check()
    second.check()


def test_a_folder_that_was_removed_or_replaced_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = Lock(folder)
    shutil.rmtree(folder)
    for again in (False, True):
        if again:
            folder.mkdir()
        with pytest.raises(LostError, match="folder was removed or replaced"):
            lock.check()


def test_only_a_held_lock_is_called_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output") as caught:
        Lock(tmp_path)
    assert not isinstance(caught.value, HeldError)


@pytest.mark.usefixtures("no_locks")
def test_without_flock_the_lock_names_its_process(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()
    assert is_held(tmp_path)
    with pytest.raises(HeldError, match=f"process {os.getpid()} of this host"):
        Lock(tmp_path)
    lock.check()
    lock.release()
    assert not is_held(tmp_path)
    Lock(tmp_path).check()


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize(("host", "warned"), [(socket.gethostname(), False), ("elsewhere", True)])
def test_without_flock_a_dead_or_distant_writer_is_followed_and_finds_out(
    host: str, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Lock(tmp_path)
    owner = {"host": host, "process": os.getpid(), "started": "1"}  # not when this process was
    (tmp_path / "lock").write_text(json.dumps(owner))
    assert not is_held(tmp_path)
    second = Lock(tmp_path)
    assert ("process" in capsys.readouterr().err) == warned
    with pytest.raises(LostError):
        first.check()
    first.release()
    second.check()
    assert is_held(tmp_path)
