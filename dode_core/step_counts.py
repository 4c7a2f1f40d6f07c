"""Step counts as people write them."""

from __future__ import annotations

from .errors import CalibrationError

LARGEST, MOST = 1000, 1000  # steps; counts in one text


def step_counts(text: str | int) -> tuple[int, ...]:
    """Ascending step counts from ``8``, ``4,6,8`` or ``4-10, 12``.

    Raises :class:`CalibrationError` for anything else, and for steps beyond 1,000.
    """
    found: set[int] = set()
    try:
        for part in str(text).split(","):
            low, _, high = part.partition("-")
            first, last = int(low), int(high or low)
            if not 1 <= first <= last <= LARGEST:
                raise ValueError(part)
            found.update(range(first, last + 1))
    except ValueError:
        raise CalibrationError(
            f"Steps {str(text)[:40]!r} are no step counts; give 8, or 4-10, or 4-7, 10."
        ) from None
    return tuple(sorted(found))
