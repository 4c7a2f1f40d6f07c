"""Which model is this? Marks that know it again, in any host, with all that was put on it.

A fingerprint is one text of marks, "name:value" with spaces between. A value is a hash, or words,
or words and a hash, "RescaleCFG+PAG~0123456789abcdef": the words let a note name what differs.

==============  ====================================================================================
weights         class, layout and some values of 16 weights (as every version has written it)
values          a few values of every weight that can be read
file            size, header and blocks of the checkpoint's file
patches         what LoRAs and merges add, by value; left out where there are none
options         what wraps the weights: functions, wrappers, replaced parts; "none" for nothing
guider          the class that mixes the outputs, and its scales; "CFG" for plain guidance
unguided        where a WebUI leaves guidance out, "NGMS=4"; left out where it does nowhere
prediction      eps, v, flow, x0, edm: what the network's output means
range           lowest and highest sigma, "0.0292-14.61"
sampling        shift, zsnr, the map from sigmas to time
==============  ====================================================================================

Other marks may be there ("distilled_cfg:3.5"): they are compared by name. A mark that read nothing
is left out. A mark that only one of two fingerprints has is *unknown*, not different, but for
``patches`` and ``unguided``: a fingerprint without them has none.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .likeness import Likeness, compare, marks

__all__ = ["Identity", "digest", "file_fingerprint", "fingerprint", "labelled", "marks"]

HEAD_BYTES, BLOCK_BYTES, BLOCKS = 256 * 1024, 4096, 8
MAX_FINGERPRINT = 300  # characters that a table file takes
MAX_WORDS, MAX_WORD = 3, 32  # names in a mark, and their letters
_MARK_BYTES = 16  # hex digits


@dataclass(frozen=True)
class Identity:
    """A model's checkpoint, where known, its name, and its fingerprint (see the module)."""

    path: Path | None
    name: str
    fingerprint: str

    def compare(self, other: str) -> Likeness:
        """How the model that a table's fingerprint is of compares with this one."""
        return compare(self.fingerprint, other)

    def same_model(self, other: str) -> bool:
        """Whether a fingerprint is of these weights, whatever is put on them."""
        return self.compare(other).same_weights


def fingerprint(parts: Mapping[str, str]) -> str:
    """Marks as one text; empty ones are left out. Characters that no mark may have become "_".

    Beyond 300 characters the words of the longest marks are cut: their hashes stay.
    """
    known = {name: re.sub(r"[^\x21-\x7e]", "_", value) for name, value in parts.items() if value}
    while (
        len(text := " ".join(f"{name}:{value}" for name, value in known.items())) > MAX_FINGERPRINT
    ):
        longest = max(known, key=lambda name: len(known[name]))
        words, tilde, mark = known[longest].rpartition("~")
        short = words[: len(words) // 2] + tilde + mark if words else mark[: len(mark) // 2]
        known[longest] = short
    return text


def labelled(names: Iterable[str], mark: str) -> str:
    """A mark's value from names that a note can say, and a hash."""
    found = [re.sub(r"[^\w.=-]", "_", name, flags=re.ASCII) for name in dict.fromkeys(names)]
    words = [name[:MAX_WORD] for name in found[:MAX_WORDS]]
    if len(found) > MAX_WORDS:
        words.append(f"{len(found) - MAX_WORDS}_more")
    return "+".join(words) + ("~" + mark if words else mark)


def digest(lines: Iterable[str | bytes]) -> str:
    """16 hex digits of SHA-256 over lines."""
    whole = hashlib.sha256()
    for line in lines:
        raw = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        whole.update(len(raw).to_bytes(8, "little") + raw)
    return whole.hexdigest()[:_MARK_BYTES]


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
