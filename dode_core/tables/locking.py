"""One writer per file, across processes and, where the file system can, across machines.

The lock is a hidden file beside the target. It lives on the same file system as the target, so that
a folder which takes ``A`` and ``a`` for one name takes their locks for one, and a shared folder
shares its locks. The system lets go of it when a process dies.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import TableError

SECONDS = 30.0
MAX_NAME_BYTES = 255  # of a file's name on every common file system
_UNSUPPORTED = {errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP}


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` (no link). Raises :class:`TableError` when it cannot be had."""
    lock = path.with_name(_lock_name(path.name))
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(path, lock)
        if handle is None:  # a network folder without locks: at least one writer on this machine
            name = os.path.normcase(path).casefold().encode("utf-8", "surrogatepass")
            digest = hashlib.sha256(name).hexdigest()[:16]
            handle = _acquire(path, Path(tempfile.gettempdir()) / f"dode-{digest}.lock")
    except OSError as error:
        raise TableError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder."
        ) from error
    if handle is None:
        raise TableError(
            f"{path.name} cannot be locked for writing, neither in its folder nor in "
            f"{tempfile.gettempdir()}; choose another folder."
        )
    try:
        yield
    finally:
        _release(handle, lock)


def _lock_name(name: str) -> str:
    """Beside the file, hidden; a hash where the name with its ending would be too long."""
    plain = f".{name}.lock"
    if len(os.fsencode(plain)) <= MAX_NAME_BYTES:
        return plain
    raw = name.casefold().encode("utf-8", "surrogatepass")
    return f".dode-{hashlib.sha256(raw).hexdigest()[:16]}.lock"


def _acquire(path: Path, lock: Path) -> int | None:
    """The open lock file, locked; None where the file system has no locks."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except PermissionError:  # Windows: the last holder's file is just being removed
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
            continue
        try:
            held = _try_lock(handle)
            # Whoever held it before has removed the file: what is locked is a file without a name.
            if held and _same_file(handle, lock):
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in _UNSUPPORTED:
                return None
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() > deadline:
            raise TableError(f"{path.name} is being written by another program; try again.")
        if not held:
            time.sleep(0.02)


def _try_lock(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise
        return False
    return True


def _same_file(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except OSError:
        return False


def _release(handle: int, lock: Path) -> None:
    """Remove the lock file while it is held, then let go. Windows removes it only once closed."""
    if os.name != "nt":
        with contextlib.suppress(OSError):
            os.unlink(lock)
    os.close(handle)
    if os.name == "nt":
        with contextlib.suppress(OSError):  # in use by the next writer already
            os.unlink(lock)
