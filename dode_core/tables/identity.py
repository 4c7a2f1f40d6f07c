"""Which checkpoint is this? Marks that know its file and its LoRAs again, in any host."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HEAD_BYTES, BLOCK_BYTES, BLOCKS = 256 * 1024, 4096, 8


@dataclass(frozen=True)
class Identity:
    """A model's checkpoint, where known, its name, and the marks to know it again by.

    ``fingerprint`` is "weights:W file:F patches:P": a sample of the weights in memory, of the
    file, and of what LoRAs change; parts that do not apply are left out.
    """

    path: Path | None
    name: str
    fingerprint: str

    def same_model(self, fingerprint: str) -> bool:
        """Whether a fingerprint is of these weights or this file; LoRAs are left aside."""
        own, other = marks(self.fingerprint), marks(fingerprint)
        return any(own.get(part, "") == other.get(part) for part in ("weights", "file"))

    def same_patches(self, fingerprint: str) -> bool:
        """Whether the same LoRAs were on the model."""
        return marks(self.fingerprint).get("patches") == marks(fingerprint).get("patches")


def marks(fingerprint: str) -> dict[str, str]:
    """The parts of a fingerprint by name."""
    return dict(part.split(":", 1) for part in fingerprint.split() if ":" in part)


def file_fingerprint(path: Path) -> str:
    """Hash of a file's size, its head (a safetensors header) and a few blocks; at most 288 KB."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # a pipe would be waited for
            return ""
        return _hash_file(os.fspath(path), info.st_size, info.st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=64)
def _hash_file(path: str, size: int, _mtime: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(HEAD_BYTES))
        for i in range(1, BLOCKS + 1):
            file.seek(max(0, i * size // BLOCKS - BLOCK_BYTES))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]
