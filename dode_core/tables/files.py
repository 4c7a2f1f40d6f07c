"""Files that users make: bounded reading and atomic writing, whatever is in them.

A file that is not valid is never changed, and a crash at any point leaves the old file or the new.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import TableError
from .locking import locked
from .strict_json import MAX_BYTES

SUFFIX = ".dode.json"
_PATIENCE = 2.0  # seconds for a reader or a virus scanner to let go of the file (Windows, shares)
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EOPNOTSUPP}
_Result = TypeVar("_Result")


def read_bytes(path: str | Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes. Raises :class:`TableError`.

    Never more than that is read, and a pipe or a device is not waited for.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=_open_regular) as file:
            raw = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL or a surrogate in the path
        if isinstance(error, TableError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise TableError(f"{path.name} cannot be read: {reason}.") from error
    if len(raw) > most:
        raise TableError(f"{path.name} is larger than {most} bytes; it is no file of this kind.")
    return raw


def _open_regular(path: str, flags: int) -> int:
    handle = _patiently(lambda: os.open(path, flags | getattr(os, "O_NONBLOCK", 0)))
    if stat.S_ISREG(os.fstat(handle).st_mode) or os.path.isdir(path):  # open() refuses folders
        return handle
    os.close(handle)
    raise TableError(f"{os.path.basename(path)} cannot be read: it is no regular file.")


def rewrite(path: str | Path, change: Callable[[str, bytes | None], bytes]) -> None:
    """Replace a file by ``change(name, its bytes, None where there is none)``.

    Atomic, one writer at a time, links followed; a ``change`` that raises leaves the file alone.
    """
    path = _real(Path(path))
    with locked(path):
        _remove_left_over(path)
        known = read_bytes(path) if os.path.exists(path) else None  # False for impossible names
        write_atomically(path, change(path.name, known))


def _real(path: Path) -> Path:
    """The file behind a link: a link stays a link. Raises :class:`TableError`."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError) as error:
        raise TableError(f"{path.name!r} is no usable file name ({error}).") from error


def write_atomically(path: Path, raw: bytes) -> None:
    """Write beside the target, flush to the disk, rename: never a half-written file."""
    path = _real(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = _temporary_prefix(path)
        handle, temporary = tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                _supported(lambda: os.fsync(file.fileno()), _UNSUPPORTED)
            _supported(lambda: os.chmod(temporary, 0o644), _UNSUPPORTED | {errno.EPERM})
            _patiently(lambda: os.replace(temporary, path))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise TableError(
            f"{path} cannot be written ({error.strerror or error}); choose another folder."
        ) from error


def _remove_left_over(path: Path) -> None:
    """Delete what writers of this file left that were killed; the caller holds the lock."""
    start = _temporary_prefix(path)
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        left = [e.path for e in entries if e.name.startswith(start) and e.name.endswith(".tmp")]
        for name in left:
            os.unlink(name)


def _temporary_prefix(path: Path) -> str:
    name = path.name.casefold().encode("utf-8", "surrogatepass")
    return f".dode-{hashlib.sha256(name).hexdigest()[:16]}-"


def _supported(action: Callable[[], None], unsupported: set[int]) -> None:
    """Do what some network file systems cannot do and the file does not depend on."""
    try:
        action()
    except OSError as error:
        if error.errno not in unsupported:
            raise


def _patiently(action: Callable[[], _Result]) -> _Result:
    """Try again for a while where Windows or a network share refuses a file that is in use."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return action()
        except OSError as error:
            refused = os.name == "nt" and isinstance(error, PermissionError)
            in_use = refused or error.errno in (errno.EBUSY, errno.ETXTBSY)
            if not in_use or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _flush_folder(folder: Path) -> None:
    """Make the rename last through a power cut, where folders can be flushed."""
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
