"""Strict JSON for files that strangers share: bounded memory, no duplicates, no NaN, own errors.

Everything is counted before anything is built, so that a small file cannot become large objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from ..errors import DodeError, TableError

MAX_BYTES = 4 * 1024 * 1024
MAX_CONTAINERS = 50_000  # lists and objects; more than the largest table file has
MAX_SEPARATORS = 200_000  # commas and colons: a bound on values and keys
MAX_DIGITS = 1000  # of a whole number; reading one takes quadratic time
MAX_TEXT = 300


def parse_json(raw: bytes, name: str, read: Callable[[Any], Any]) -> Any:
    """``read`` applied to what the bytes hold. Raises :class:`TableError` starting with ``name``.

    ``read`` checks the values with the functions below; its own errors are prefixed likewise.
    """
    try:
        _measure(raw)
        document = json.loads(
            raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8"),  # some editors begin with that mark
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_int=_whole,
        )
        return read(document)
    except TableError as error:
        raise TableError(f"{name}: {error}") from error
    except RecursionError as error:
        raise TableError(f"{name} is nested too deeply; it is no file of this program.") from error
    except ValueError as error:  # json, unicode, DodeError
        detail = str(error) if isinstance(error, DodeError) else f"not valid JSON ({error})."
        raise TableError(f"{name}: {detail}") from error


def _measure(raw: bytes) -> None:
    if len(raw) > MAX_BYTES:
        raise TableError(f"it is larger than {MAX_BYTES} bytes; it is no file of this program.")
    containers = raw.count(b"[") + raw.count(b"{")
    separators = raw.count(b",") + raw.count(b":")
    if containers > MAX_CONTAINERS or separators > MAX_SEPARATORS:
        raise TableError(
            f"it holds {containers} lists and {separators} values; at most {MAX_CONTAINERS} and "
            f"{MAX_SEPARATORS} are read."
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise TableError(f"the key {key[:40]!r} occurs twice; keep one.")
        seen.add(key)
    return found


def _no_constant(name: str) -> float:
    raise TableError(f"{name} is not a number a table may hold.")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


# Values


def keys(value: Any, wanted: set[str], where: str) -> None:
    """Exactly these keys, no fewer and no others."""
    if not isinstance(value, dict) or set(value) != wanted:
        found = set(value) if isinstance(value, dict) else set()
        wrong = sorted(found ^ wanted)[:3]
        shown = ", ".join(repr(key[:40]) for key in wrong) or type(value).__name__
        raise TableError(f"{where} lacks or does not know {shown}.")


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TableError(f"a {type(value).__name__} stands where a number belongs.")
    if not abs(value) < 1e300 or not math.isfinite(value):
        raise TableError("a number is not finite.")
    return float(value)


def count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise TableError("a count is not a whole number from 0 up.")
    return value


def seed(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise TableError("the seed is not a whole number from 0 up.")
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TableError("a flag is neither true nor false.")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise TableError(f"a text is not printable or longer than {MAX_TEXT} characters.")
    return value


def listed(read: Callable[[Any], Any], most: int) -> Callable[[Any], list[Any]]:
    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise TableError(f"a list of at most {most} entries was expected.")
        return [read(item) for item in value]

    return read_list


def optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)
