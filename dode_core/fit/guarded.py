"""The model as a calibration sees it: counted, reported, and not trusted.

Memory that runs out makes its batches smaller, a sample whose output is not finite is named, and a
model that gives another output for the same input than before is noticed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError, NotFiniteError
from ..solve.integrate import Denoiser

Progress = Callable[[int, int, Tensor], None]  # one with a method ``begin(phase)`` is told those
SAMPLES = "_dode_samples"  # the samples' own numbers ride along as one more argument per sample
ALL_ROWS = "_dode_all_rows"  # how many rows the micro-batch has in all processes
PROBE_SIGMA = 0.6  # the call nearest to it is repeated at the end: detail is decided about there
PROBE_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-2}  # of kernels and batch sizes
HALF_TOLERANCE = 5e-2
log = logging.getLogger("dode")


class CountingModel:
    """The denoiser with its calls counted and reported; raising from progress stops everything.

    ``per_sample`` names the arguments that have one row per sample.
    """

    def __init__(
        self,
        model: Denoiser,
        progress: Progress | None,
        total: int,
        per_sample: frozenset[str] = frozenset(),
    ) -> None:
        self.model, self.progress, self.total = model, progress, total
        self.per_sample = per_sample
        self.calls = self.evaluations = 0
        self.newest: Tensor | None = None
        self.most: int | None = None  # samples at a time, once memory has run out
        self._probe: tuple[Tensor, Tensor, dict[str, Any], Tensor] | None = None
        self._last_sigma = math.inf

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        samples = extra_args.pop(SAMPLES, None)
        self.evaluations += extra_args.pop(ALL_ROWS, len(x))
        denoised = self._evaluate(x, sigma, extra_args)
        if denoised.shape != x.shape:
            raise CalibrationError(
                f"The model was given states of shape {tuple(x.shape)} and returned "
                f"{tuple(denoised.shape)}; it is no denoiser, or it changed while it was distilled."
            )
        self._check_finite(denoised, sigma, samples)
        self._remember(x, sigma, extra_args, denoised)
        self.newest = denoised
        self._report(denoised)
        return denoised

    def _evaluate(self, x: Tensor, sigma: Tensor, extra_args: Mapping[str, Any]) -> Tensor:
        """One call, or several on ever smaller parts where memory does not suffice."""
        if not len(x):  # the other processes have all of this micro-batch
            self.calls += 1
            return x
        while self.most is None or self.most >= len(x):
            try:
                denoised = self.model(x, sigma, **extra_args)
                self.calls += 1
                return denoised
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                if len(x) == 1:
                    raise CalibrationError(
                        f"Memory ran out with one latent of shape {tuple(x.shape[1:])} at a time; "
                        "distil on a smaller latent, or free memory first."
                    ) from None
                self.most = len(x) // 2
            free_memory()  # outside of the except block, whose traceback keeps tensors alive
            log.warning("D-ODE: out of memory, now %d at a time.", self.most)
        parts, size = [], self.most  # which may shrink further on the way
        for i in range(0, len(x), size):
            rows = slice(i, i + size)
            parts.append(self._evaluate(x[rows], sigma[rows], self._part(extra_args, rows)))
        return torch.cat(parts)

    def _part(self, extra_args: Mapping[str, Any], rows: slice) -> dict[str, Any]:
        return {k: v[rows] if k in self.per_sample else v for k, v in extra_args.items()}

    def _check_finite(self, denoised: Tensor, sigma: Tensor, samples: Tensor | None) -> None:
        finite = denoised.isfinite()
        if finite.all():
            return
        bad = ~finite.reshape(len(finite), -1).all(1).cpu()
        numbers = torch.arange(len(bad)) if samples is None else samples.cpu()
        raise NotFiniteError(float(sigma[0]), numbers[bad].tolist(), self.evaluations)

    def begin(self, phase: str) -> None:
        """Say, in words for users, what the next calls are for, to a progress that takes it."""
        begin = getattr(self.progress, "begin", None)
        if begin is not None:
            begin(phase)

    def _report(self, denoised: Tensor) -> None:
        if self.progress is not None:
            self.progress(self.calls, max(self.total, self.calls), denoised)

    def _remember(
        self, x: Tensor, sigma: Tensor, extra_args: Mapping[str, Any], denoised: Tensor
    ) -> None:
        """Keep one sample of the first run's call that is nearest to PROBE_SIGMA."""
        if not len(x):
            return
        s = float(sigma[0])
        if s >= self._last_sigma:  # the first run is over
            self._last_sigma = -math.inf
            return
        self._last_sigma = s
        known = self._probe and float(self._probe[1][0])
        if known is None or abs(math.log(s / PROBE_SIGMA)) < abs(math.log(known / PROBE_SIGMA)):
            args = self._part(extra_args, slice(0, 1))
            self._probe = x[:1].clone(), sigma[:1].clone(), args, denoised[:1].clone()

    def check_unchanged(self) -> None:
        """Evaluate one remembered sample again. Raises when the model is no longer the same."""
        self.evaluations += 1
        if self._probe is None:
            return
        self.begin("checking that the model is still the same")
        x, sigma, args, before = self._probe
        after = self._evaluate(x, sigma, args)
        self._report(after)
        tolerance = PROBE_TOLERANCE.get(before.dtype, HALF_TOLERANCE)
        size = float(before.double().square().mean().sqrt())
        if before.shape == after.shape:
            change = float((after.double() - before.double()).square().mean().sqrt())
            if change <= tolerance * size:  # false for NaN as well
                return
        else:
            change = math.inf
        raise CalibrationError(
            f"The model changed while it was distilled: at sigma {float(sigma[0]):g} the same "
            f"input gives an output that is {change / max(size, 1e-300):.0%} off; no table was "
            "made. Keep it loaded and unchanged, and distil again."
        )

    def finish(self) -> None:
        """Report the end: calls that were reserved and not needed count as done."""
        if self.progress is not None and self.newest is not None:
            total = max(self.total, self.calls)
            self.progress(total, total, self.newest)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: CUDA's, MPS's, the CPU's, a host's."""
    known = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    if isinstance(error, known | MemoryError):
        return True
    text = str(error)
    words = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC")
    return isinstance(error, RuntimeError) and any(word in text for word in words)


def free_memory() -> None:
    """Give cached memory back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def has_rows(value: Any, samples: int) -> bool:
    """Whether an extra argument is a tensor with one row per sample."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == samples
