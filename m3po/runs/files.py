"""Files that outlive crashes: replaced whole or not at all, appended to by whole lines, locked by one process.

Nothing here needs what some file systems lack: hard links, ``flock``, and ``fsync`` of folders.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import stat
import sys
from pathlib import Path

from m3po.runs.terminal import messages

PARTIAL = ".partial"  # ends the name of every temporary file

_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}

_NO_LOCKS = _UNSUPPORTED | {errno.ENOLCK, errno.EBADF, errno.EISDIR}  # NFS locks no folder: EBADF

_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV}

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}

_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class HeldError(OSError):
    """Another process, or another object of this one, holds the lock."""


class LostError(OSError):
    """What this process had locked is no longer there, or is another's."""


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file; of a pipe or a device nothing is read.

    Args:
        most: bytes that it may have; any number when None.

    Raises:
        OSError: when there is none, or it is larger.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(-1 if most is None else most + 1)
    if most is not None and len(data) > most:
        raise OSError(f"{path} has more than {most} bytes")
    return data


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, in as many calls as that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def append(descriptor: int, data: bytes) -> None:
    """Append ``data`` to a file opened with O_APPEND; when that fails, what got there is taken back."""
    end = os.fstat(descriptor).st_size
    try:
        write_whole(descriptor, data)
        _sync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, end)
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name[:32]}.{secrets.token_hex(8)}{PARTIAL}")


def replace_atomically(path: Path, data: bytes) -> None:
    """Write beside it, flush to disk, rename: a reader (or a crash) sees the old file or the new one, never a part.

    Raises:
        OSError: also when ``path`` is there and is not a regular file: a link, a folder, a device.
    """
    os.close(replaced(path, data, lock=False))


def replaced(path: Path, data: bytes, *, lock: bool = True) -> int:
    """``replace_atomically``; the descriptor of the new file, to append to it, locked before it is there to be seen."""
    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(f"{path} is not a regular file, and is not replaced by one")
    partial = _beside(path)
    descriptor = os.open(partial, os.O_RDWR | os.O_APPEND | _NEW, 0o666)
    try:
        if lock:
            flock(descriptor)
        write_whole(descriptor, data)
        _sync(descriptor)
        rename(partial, path)
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    return descriptor


def create_exclusively(path: Path, data: bytes) -> None:
    """A new file, whole at once; the file of someone faster is left alone (without hard links: but for an instant)."""
    partial = _beside(path)
    replace_atomically(partial, data)
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not os.path.lexists(path):
            rename(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def rename(source: Path, target: Path) -> None:
    """Rename over ``target``, and make that survive a loss of power too."""
    os.replace(source, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in it is on the disk."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # it may be written but not listed
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def duplicate(source: Path, target: Path) -> None:
    """Make ``target`` the same file as ``source``, or a copy where there are no hard links, in one step."""
    partial = _beside(target)
    try:
        os.link(source, partial)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        replace_atomically(target, read_regular(source))
        return
    try:
        rename(partial, target)
    finally:  # also when they were the same file before: then the rename did nothing
        with contextlib.suppress(OSError):
            os.unlink(partial)


def flock(descriptor: int) -> bool:
    """Lock a file or folder until it is closed; whether its file system can.

    Raises:
        HeldError: when it is locked already.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise HeldError(error.errno, os.strerror(error.errno)) from error
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


class Lock:
    """The right to write in a folder: one process has it, until ``release`` or its death.

    Locked are the folder itself and the file ``lock`` in it (NFS locks no folder), so that removing the file lets no
    second process in. Where there is no ``flock``, the file names host and process. The next one then takes over when
    that process is gone; when it is on another host, of which nothing can be known, with a warning, and the other one
    finds out before its next write.

    Raises:
        HeldError: when another process has it.
        OSError: when ``lock`` can be neither made nor opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / "lock"
        self._descriptors: list[int] = []
        self._process = os.getpid()
        self._owner: int | None = None
        try:
            while True:
                held = self._open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
                file_locked = flock(held)
                if is_at(self._file, held):
                    break
                self.release()  # it was removed in between
            # After the file: its making may give the folder another number, in layered file systems.
            folder_descriptor = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
            self._watched = [(folder, folder_descriptor)]
            if not flock(folder_descriptor):
                if not file_locked:
                    self._owner = held = self._take_over(held)
                self._watched.append((self._file, held))
        except BaseException:
            self.release()
            raise

    def _open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self._descriptors.append(descriptor)
        return descriptor

    def _take_over(self, held: int) -> int:
        owner = _owner(os.pread(held, 4096, 0))
        if owner is not None:
            host, process, _ = owner
            if _alive(owner):
                raise HeldError(f"process {process} of this host is writing in {self._folder}")
            if host != socket.gethostname():
                print(
                    f"warning: the file system of {self._folder} has no locks, and process {process} on {host} was the "
                    "last to write there; make sure that it has ended",
                    file=messages(),
                )
        process = os.getpid()
        record = {"host": socket.gethostname(), "process": process, "started": _start_of(process)}
        descriptor = replaced(self._file, json.dumps(record).encode() + b"\n")
        self._descriptors.append(descriptor)
        return descriptor

    def check(self) -> None:
        """To be called before every write.

        Raises:
            LostError: when the folder was removed, moved or replaced, or another process took over.
        """
        for path, descriptor in self._watched:
            if not is_at(path, descriptor):
                raise LostError(f"{path} was removed or replaced while this process was writing in {self._folder}")

    def release(self) -> None:
        """Let others write here."""
        try:
            if self._owner is not None and os.getpid() == self._process:  # not in a child
                with contextlib.suppress(OSError):
                    os.ftruncate(self._owner, 0)
        finally:
            self._owner = None
            while self._descriptors:
                os.close(self._descriptors.pop())

    def __del__(self) -> None:
        self.release()


def is_held(folder: Path) -> bool:
    """Whether a process on a host that this one can tell of has the ``Lock`` of ``folder``."""
    for path, flags in ((folder / "lock", os.O_NOFOLLOW | os.O_NONBLOCK), (folder, os.O_DIRECTORY)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return True
            if error.errno not in _NO_LOCKS:
                raise
            owner = None if path == folder else _owner(os.pread(descriptor, 4096, 0))
            if owner is not None and _alive(owner):
                return True
        finally:
            os.close(descriptor)
    return False


def is_at(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is the very file or folder that ``descriptor`` was opened on."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _owner(content: bytes) -> tuple[str, int, str] | None:
    """Host, process and its start, as a ``lock`` names them; None when it names none."""
    try:
        record = json.loads(content)
        return str(record["host"]), int(record["process"]), str(record["started"])
    except (ValueError, KeyError, TypeError):
        return None


def _alive(owner: tuple[str, int, str]) -> bool:
    """Whether it is a process of this host that is still there."""
    host, process, started = owner
    return host == socket.gethostname() and started != "" and _start_of(process) == started


def _start_of(process: int) -> str:
    """When a process of this host was started, in its own clock; "" when there is no such process, or none to see."""
    try:
        # The second field, the name in parentheses, may hold spaces.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if sys.platform == "linux":
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "alive"
