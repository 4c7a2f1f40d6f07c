"""The header of a safetensors file, read with bounds; its fingerprint is in identity.py.

No weights are loaded and nothing is unpickled: a checkpoint may come from anywhere.
"""

from __future__ import annotations

import json
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import TableError

MAX_HEADER = 16 * 1024 * 1024  # bytes; the largest models have below 1 MiB
MAX_TENSORS = 100_000
MAX_RANK, MAX_KEY = 16, 1024
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: its texts, and every tensor's type and shape."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]


def read_header(path: str | Path) -> Header:
    """The header of a safetensors file, checked against the file's size.

    Raises :class:`TableError` for anything that the format does not allow: at most MAX_HEADER bytes
    are read whatever the file claims. Source: the format's description,
    https://github.com/huggingface/safetensors#format.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return parse_header(file, _regular_size(file))
    except TableError as error:
        raise TableError(f"{path.name} is no valid safetensors file: {error}") from error
    except (OSError, ValueError) as error:
        raise TableError(f"{path.name} cannot be read: {error}.") from error


def _regular_size(file: BinaryIO) -> int:
    info = os.fstat(file.fileno())
    if not stat.S_ISREG(info.st_mode):
        raise OSError("it is no regular file")
    return info.st_size


def parse_header(file: BinaryIO, size: int) -> Header:
    """The header of an open file of ``size`` bytes. Raises :class:`TableError`."""
    try:
        return _header(file, size)
    except RecursionError as error:
        raise TableError("its header is nested too deeply.") from error


def _header(file: BinaryIO, size: int) -> Header:
    head = file.read(8)
    if len(head) < 8:
        raise TableError(f"it has {size} bytes.")
    (length,) = struct.unpack("<Q", head)
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        raise TableError(
            f"its header claims {length} bytes of {size}; at most {MAX_HEADER} are read."
        )
    raw = file.read(length)
    if raw.count(b"{") > 2 * MAX_TENSORS or raw.count(b",") > 12 * MAX_TENSORS:
        raise TableError(f"its header lists more than {MAX_TENSORS} tensors.")
    try:
        entries = json.loads(raw.decode("utf-8"), parse_constant=_refuse, parse_int=_whole)
    except ValueError as error:
        raise TableError(f"its header is not valid JSON ({error}).") from error
    if not isinstance(entries, dict) or len(entries) > MAX_TENSORS + 1:
        raise TableError("its header is no object of tensors.")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TableError("its metadata are not texts.")
    data = size - 8 - length
    return Header(metadata, {key: _tensor(key, value, data) for key, value in entries.items()})


def _tensor(key: str, value: Any, data: int) -> tuple[str, tuple[int, ...]]:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise TableError(f"tensor {key[:60]!r} lacks its type, shape or place.")
    kind, shape, place = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(kind, str) or kind not in BITS or len(key) > MAX_KEY:
        raise TableError(f"tensor {key[:60]!r} has an unknown type.")
    if not _counts(shape) or len(shape) > MAX_RANK or not _counts(place) or len(place) != 2:
        raise TableError(f"tensor {key[:60]!r} has no valid shape or place.")
    begin, end = place
    if not begin <= end <= data or 8 * (end - begin) != BITS[kind] * math.prod(shape):
        raise TableError(f"tensor {key[:60]!r} does not fit its place in the file.")
    return kind, tuple(shape)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)
