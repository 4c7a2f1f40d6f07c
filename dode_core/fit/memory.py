"""Batches that do not fit the memory: smaller parts of them, and what running out looks like."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import Denoiser

log = logging.getLogger("dode")


class InParts:
    """The denoiser, on ever smaller parts of the batch where memory does not suffice.

    ``per_sample`` names the arguments that have one row per sample. ``calls`` counts the model's.
    """

    def __init__(self, model: Denoiser, per_sample: frozenset[str] = frozenset()) -> None:
        self.model, self.per_sample = model, per_sample
        self.calls = 0
        self.most: int | None = None  # samples at a time, once memory has run out

    def __call__(self, x: Tensor, sigma: Tensor, extra_args: Mapping[str, Any]) -> Tensor:
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
                    raise no_room(x) from None
                self.most = len(x) // 2
            free_memory()  # outside of the except block, whose traceback keeps tensors alive
            log.warning("D-ODE: out of memory, now %d at a time.", self.most)
        parts, size = [], self.most  # which may shrink further on the way
        for i in range(0, len(x), size):
            rows = slice(i, i + size)
            parts.append(self(x[rows], sigma[rows], self.part(extra_args, rows)))
        return torch.cat(parts)

    def part(self, extra_args: Mapping[str, Any], rows: slice) -> dict[str, Any]:
        """The arguments of some of the batch's samples."""
        return {k: v[rows] if k in self.per_sample else v for k, v in extra_args.items()}


def no_room(x: Tensor) -> CalibrationError:
    """What is said when not even one sample of x (B, ...) can be evaluated."""
    return CalibrationError(
        f"Memory ran out with one latent of shape {tuple(x.shape[1:])} at a time; "
        "distill on a smaller latent, or free memory first."
    )


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
