"""What a calibration measures of itself: runs on held-out samples, beside the built-in rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from ..learn.student import log_errors
from ..tables.table import LambdaTable
from .built_in import best_built_in
from .measured import Measured
from .observe import Observer
from .profile import Profile
from .simulate import Plan
from .usual import even_sigma

ALWAYS = (8, 4, 5, 12)  # steps of the runs that every budget measures
PARTIAL = 1  # which of them is image to image
COMPARED = ALWAYS[:1]  # what every budget measures beside built-in rows
# Standard errors. With one, chance left all whole runs of a calibration (EDM, cfg 3) to built-in
# rows that are a third further off.
TOLD = 2.0
MORE = (6, 10, 4, 7, 15, 20, 30)  # what the rest of a larger budget goes to


def reserved(samples: int) -> int:
    """Evaluations that the runs which are always measured take on so many samples."""
    return samples * (sum(ALWAYS) + sum(COMPARED))


def measure(
    profile: Profile, held: Observer, left: Callable[[], float]
) -> Iterator[tuple[Measured, Plan, LambdaTable | None]]:
    """Runs on the held-out samples, while the budget lasts: what was measured, of which plan, and
    the table that serves the run: the plan's, or of built-in rows where those end nearer, by more
    than so few samples may by chance. None where no built-in rows were run.

    ``left()``: evaluations, of all samples, that may still be made.
    """
    part = even_sigma(profile.parametrization, profile.sigma_max, profile.sigma_min)
    for i, steps in enumerate((*ALWAYS, *MORE)):
        start = part if i == PARTIAL else None
        cost, later = steps * held.samples, sum(ALWAYS[i + 1 :]) * held.samples
        if not cost or left() < cost:
            continue
        plan = profile.plan(steps, start)
        ours = held.run(plan)
        found = Measured(steps, start, plan.expected, ours.error)
        other = best_built_in(profile, plan)
        if other is None or other.errors is None or left() - cost < later:
            yield found, plan, None
            continue
        theirs, expected = held.run_table(other), other.errors.distilled_fit
        error = float(theirs.mean().sqrt())
        found = replace(found, built_in=error, built_in_predicted=expected, name=other.solver)
        nearer = is_told(ours.squares, theirs)
        yield found, plan, other if nearer else profile.table_of(plan)


def is_told(ours: Tensor, theirs: Tensor) -> bool:
    """Whether samples' mean square errors say that theirs are nearer: the mean of the differences
    of the logarithms, sample by sample, lies above TOLD times its standard error.

    By logarithms, since one that ends at another image is one of them, however far off: by the RMS
    one of eight decided on EDM at cfg 3 for runs that are worse on others. By more than chance,
    since on four samples ties went to rows that were up to a third further off on others.
    """
    more = log_errors(ours) - log_errors(theirs)
    error = float(more.std()) / math.sqrt(len(more)) if len(more) > 1 else 0.0
    return float(more.mean()) > TOLD * error
