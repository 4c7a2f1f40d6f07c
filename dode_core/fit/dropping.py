"""Distilling without the samples for which the model's output is not finite."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ..errors import CalibrationError, NotFiniteError
from . import distributed
from .guarded import args_of

log = logging.getLogger("dode")
Distill = TypeVar("Distill", bound=Callable[..., Any])


def dropping_samples(distill: Distill) -> Distill:
    """``distill(model, x, ...)``, begun again without samples whose output is not finite.

    They are counted in the tables' ``dropped`` and named in the log; what they cost is counted as
    well. Raises :class:`CalibrationError`, which names the sigma, when too few are left.
    """

    @functools.wraps(distill)
    def run(model: Any, x: Tensor, *args: Any, **options: Any) -> Any:
        samples = len(x) if x.ndim else 0  # which distill itself refuses
        left, spent = list(range(samples)), 0
        while True:
            try:
                if len(left) == samples:
                    return distill(model, x, *args, **options)
                part = _kept(options, torch.tensor(left), samples)
                found = distill(model, x[torch.tensor(left, device=x.device)], *args, **part)
                return _with_dropped(found, samples - len(left), spent / len(left))
            except NotFiniteError as found_here:
                error = distributed.agreed(found_here)
                bad = [left[i] for i in error.samples]
                left = [i for i in left if i not in bad]
                spent += error.evaluations
                _report(error, bad, len(left), samples)

    return cast(Distill, run)


def _report(error: NotFiniteError, bad: list[int], left: int, samples: int) -> None:
    if left < min(2, samples):  # one alone cannot be fitted and held out
        raise CalibrationError(
            f"The model's output is not finite at sigma {error.sigma:g}, for {samples - left} of "
            f"{samples} samples, which leaves too few; check its precision (an fp16 overflow?) or "
            "use other calibration noise."
        ) from None
    numbers = ", ".join(str(i + 1) for i in bad)
    log.warning(
        "D-ODE: the model's output is not finite at sigma %g for sample %s of %d: left out.",
        *(error.sigma, numbers, samples),
    )


def _kept(options: Mapping[str, Any], rows: Tensor, samples: int) -> dict[str, Any]:
    """The arguments, those that belong to samples without the dropped ones."""
    kept = dict(options)
    if kept.get("extra_args"):
        kept["extra_args"] = args_of(kept["extra_args"], rows, samples)
    if isinstance(targets := kept.get("targets"), Tensor):
        kept["targets"] = targets[:, rows.to(targets.device)]
    return kept


def _with_dropped(found: Any, dropped: int, share: float) -> Any:
    tables = found if isinstance(found, list) else [found]
    tables = [replace(table, dropped=dropped) for table in tables]
    if tables:  # the first one pays, as for the teacher
        tables[0] = replace(tables[0], evaluations=tables[0].evaluations + share)
    return tables if isinstance(found, list) else tables[0]
