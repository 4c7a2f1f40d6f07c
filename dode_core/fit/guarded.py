"""The model as a calibration sees it: counted, reported, and not trusted.

Memory that runs out makes its batches smaller (:mod:`.memory`), a sample whose output is not finite
is named, and a model that gives another output for the same input than before is noticed
(:mod:`.probe`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError, NotFiniteError
from ..solve.integrate import Denoiser, begin_run
from .memory import InParts
from .probe import Evaluation, Probe

Progress = Callable[[int, int, Tensor], None]  # one with a method ``begin(phase)`` is told those
SAMPLES = "_dode_samples"  # the samples' own numbers ride along as one more argument per sample
ALL_ROWS = "_dode_all_rows"  # how many rows the micro-batch has in all processes


class CountingModel:
    """The denoiser with its evaluations counted and reported; raising from progress stops all.

    ``per_sample`` names the arguments that have one row per sample.
    """

    def __init__(
        self,
        model: Denoiser,
        progress: Progress | None,
        total: int,
        per_sample: frozenset[str] = frozenset(),
    ) -> None:
        self.model, self.probe = InParts(model, per_sample), Probe()
        self.progress, self.total = progress, total
        self.evaluations = 0
        self.newest: Tensor | None = None

    @property
    def calls(self) -> int:
        """Calls of the model, whatever the size of their batches."""
        return self.model.calls

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        samples = extra_args.pop(SAMPLES, None)
        self.evaluations += extra_args.pop(ALL_ROWS, len(x))
        denoised = self.model(x, sigma, extra_args)
        check_shape(x, denoised)
        if (bad := not_finite(denoised, samples)) is not None:
            raise NotFiniteError(float(sigma[0]), bad, self.evaluations)
        if len(x) and self.probe.wants(float(sigma[0])):
            args = self.model.part(extra_args, slice(0, 1))
            kept = x[:1].clone(), sigma[:1].clone(), args, denoised[:1].clone()
            self.probe.kept = Evaluation(*kept)
        self.newest = denoised
        self._report(denoised)
        return denoised

    def begin_run(self, sigmas: Sequence[float]) -> None:
        """Pass on which run comes next."""
        begin_run(self.model.model, sigmas)

    def begin(self, phase: str) -> None:
        """Say, in words for users, what the next calls are for, to a progress that takes it."""
        begin = getattr(self.progress, "begin", None)
        if begin is not None:
            begin(phase)

    def check_unchanged(self) -> None:
        """Evaluate one remembered sample again. Raises when the model is no longer the same."""
        self.evaluations += 1
        if (kept := self.probe.kept) is None:
            return
        self.begin_run([float(kept.sigma[0]), 0.0])
        self.begin("checking that the model is still the same")
        after = self.model(kept.x, kept.sigma, kept.extra_args)
        self._report(after)
        self.probe.check(after)

    def report_again(self) -> None:
        """Report where it stands: between calls, in work that asks nothing of the model."""
        if self.newest is not None:
            self._report(self.newest)

    def finish(self) -> None:
        """Report the end: calls that were reserved and not needed count as done."""
        if self.progress is not None and self.newest is not None:
            total = max(self.total, self.calls)
            self.progress(total, total, self.newest)

    def _report(self, denoised: Tensor) -> None:
        if self.progress is not None:
            self.progress(self.calls, max(self.total, self.calls), denoised)


def check_shape(x: Tensor, denoised: Tensor) -> None:
    """Raises :class:`CalibrationError` for what no denoiser returns."""
    if denoised.shape != x.shape:
        raise CalibrationError(
            f"The model was given states of shape {tuple(x.shape)} and returned "
            f"{tuple(denoised.shape)}; it is no denoiser, or it changed while it was distilled."
        )


def not_finite(denoised: Tensor, samples: Tensor | None) -> list[int] | None:
    """The numbers of the samples whose output is not finite; None when all are."""
    finite = denoised.isfinite()
    if finite.all():
        return None
    bad = ~finite.reshape(len(finite), -1).all(1).cpu()
    numbers = torch.arange(len(bad)) if samples is None else samples.cpu()
    return numbers[bad].tolist()


def has_rows(value: Any, samples: int) -> bool:
    """Whether an extra argument is a tensor with one row per sample."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == samples


def args_of(
    extra_args: Mapping[str, Any] | None, rows: slice | Tensor, samples: int
) -> dict[str, Any]:
    """The extra arguments of some of the ``samples``; what belongs to no sample stays whole."""
    found = dict(extra_args or {})
    for key, value in found.items():
        if has_rows(value, samples):
            found[key] = value[rows if isinstance(rows, slice) else rows.to(value.device)]
    return found
