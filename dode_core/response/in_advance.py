"""Tables that a calibration makes in advance, so that first runs need not wait for theirs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ..fit import distributed
from ..fit.guarded import CountingModel
from .profile import Profile

USUAL = (6, 10, 20, 15, 7, 4, 30, 25)  # what is asked for most
STEPS = (*USUAL, *(n for n in range(3, 31) if n not in USUAL))
SHARE = 0.05  # of the calibration's time
LEAST_SECONDS = 60.0  # that a calibration takes; on shorter ones nobody would wait for this
PER_STEP = 0.1  # seconds, before one was timed: what a slow core takes


def with_tables(
    profile: Profile,
    seconds: float,
    model: CountingModel | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Profile:
    """The profile with tables of 3 to 30 steps from pure noise, the usual numbers first.

    ``seconds`` is what its calibration took: tables are made while they should take no more than
    SHARE of it. Those that do not fit, and all of a short calibration, are left to first use. They
    are the very tables that a first use makes. The progress of ``model`` hears of each. Of several
    processes only the first makes them: it is the one that saves.
    """
    if seconds < LEAST_SECONDS or distributed.rank() > 0:
        return profile
    if model is not None:
        model.total = model.calls  # no more come, and nobody should wait for those not needed
        model.begin("making the tables of 3 to 30 steps")
    made, each, end = [], PER_STEP, clock() + SHARE * seconds
    for steps in STEPS:
        now = clock()
        if profile.known(steps, None) is not None or now + each * steps > end:
            continue
        made.append(profile.table(steps))
        each = (clock() - now) / steps
        if model is not None:
            model.report_again()
    return replace(profile, tables=(*profile.tables, *made))
