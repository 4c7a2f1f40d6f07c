"""Names that people and programs type, turned into paths that cannot leave their folder."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from ..errors import TableError
from .files import SUFFIX
from .locking import MAX_NAME_BYTES

MAX_NAME = 100
_PLAIN = re.compile(r"[\w+-][\w .+()-]*")
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"}
_DEVICES |= {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}


def file_name(name: object, suffix: str = SUFFIX) -> str:
    """A plain file name ending in ``suffix`` from what was typed with or without it.

    Letters, digits, spaces and . _ + - ( ) only, no Windows device, no hidden file: the name means
    the same file on every system. Raises :class:`TableError`.
    """
    stem = unicodedata.normalize("NFC", name).strip(" ") if isinstance(name, str) else ""
    stem = stem.removesuffix(suffix)
    device = re.split(r"[. ]", stem, maxsplit=1)[0].lower() in _DEVICES
    if not _PLAIN.fullmatch(stem) or stem.endswith((".", " ")) or device:
        raise TableError(
            f"File name {_shown(name)} is not usable; use letters, digits, spaces and . _ + - ( ) "
            "only."
        )
    if not fits(stem + suffix) or len(stem) > MAX_NAME:
        raise TableError(
            f"File name {_shown(name)} is not usable: it is {len(stem)} letters in "
            f"{len(os.fsencode(stem))} bytes; {MAX_NAME} letters in "
            f"{MAX_NAME_BYTES - len(suffix)} bytes are most."
        )
    return stem + suffix


def fits(name: str) -> bool:
    """Whether a file may be called that: the limit is in bytes, of which a letter may take four."""
    return len(os.fsencode(name)) <= MAX_NAME_BYTES


def cut(stem: str, most: int) -> str:
    """As many letters of a name as fit into ``most`` bytes."""
    return os.fsencode(stem)[:most].decode(errors="ignore")


def inside(folder: str | Path, name: object, suffix: str = SUFFIX) -> Path:
    """The path of a typed name in ``folder``, links followed, never outside of it.

    Raises :class:`TableError`, also when the file there is a link that leads elsewhere.
    """
    path = Path(folder) / file_name(name, suffix)
    if not is_inside(path, folder):
        raise TableError(
            f"{path.name} is a link to a file outside {folder}; name that file's own folder."
        )
    return path


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, links followed, lies below a folder, links followed."""
    try:
        real, root = os.path.realpath(path), os.path.realpath(folder)
        return real != root and os.path.commonpath([real, root]) == root
    except (OSError, ValueError):  # another drive, a NUL
        return False


def _shown(name: object) -> str:
    return ascii(name if isinstance(name, str) else type(name).__name__)[:60]
