"""Which of the runs that learning went through is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .student import Run, Student


def best_run(student: Student, runs: Sequence[Run], begun: Run | None = None) -> Run:
    """The run of least error on held-out samples, or of those they cannot tell from it the one
    that fits best.

    A run is told from the best when its log errors lie higher by more than one standard error of
    the difference, sample by sample; with one held-out sample, or none, nothing is weighed up.
    ``begun``, a run whose lambdas were known before (of a profile, which other samples made), is
    kept unless it is told from the best: what fits better was fitted to these.
    """
    held = student.validates
    best = min(runs, key=lambda run: student.typical_error(run, held))
    least = student.logs(best, held)
    if not held or len(least) < 2:
        return best

    def told(run: Run) -> bool:
        more = student.logs(run, True) - least
        return float(more.mean()) > float(more.std()) / math.sqrt(len(more))

    if begun is not None and not told(begun):
        return begun
    close = [run for run in runs if not told(run)]
    return min(close, key=student.typical_error)
