"""What a distillation costs at most, counted before it is begun."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor


class _Counted(Exception):
    """The work has told how long it is."""


def most_evaluations(work: Callable[..., Any], samples: int) -> int:
    """Model evaluations, of all samples together, that ``work`` makes at most.

    ``work(model, x, progress=..., batch_size=...)`` is a distillation: it is begun on a model that
    costs nothing, and stopped after its first call, which knows the total.
    """
    counted: list[int] = []

    def stop(done: int, most: int, denoised: Tensor) -> None:
        counted.append(most)
        raise _Counted

    with suppress(_Counted):
        work(_nothing, torch.zeros(samples, 1, 1, 1), progress=stop, batch_size=1)
    return sum(counted)


def _nothing(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
    return torch.zeros_like(x)
