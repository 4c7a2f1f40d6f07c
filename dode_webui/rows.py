"""The host's denoiser as a calibration asks it: any rows of its batch, until it is cancelled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Progress = Callable[[int, int, str], None]  # calls done, the most there will be, which part
Grid = tuple[float, ...]


class Rows:
    """The host's denoiser for any rows of the batch that its conditioning was made for."""

    def __init__(self, model: Any, extra_args: dict[str, Any], grids: Sequence[Grid]) -> None:
        self.model, self.extra_args = model, extra_args
        self.inner_model = getattr(model, "inner_model", None)
        self.grid = max(grids, key=len)

    def __call__(self, x: Tensor, sigma: Tensor, rows: Tensor) -> Tensor:
        """Denoised for x, whose samples take the conditioning of ``rows``."""
        # Prompts that change by step: the step of the run that is at this noise level.
        level = float(sigma[0])
        self.model.step = max(sum(s > level * (1 - 1e-4) for s in self.grid[:-1]) - 1, 0)
        wanted = rows.tolist()
        args = {key: take(value, wanted) for key, value in self.extra_args.items()}
        return self.model(x, sigma, **args)


class Watched:
    """A denoiser that counts its calls, of which there will be ``most``, and can be cancelled at
    every one.
    """

    def __init__(self, model: Rows, progress: Progress, most: int) -> None:
        self.model, self.progress, self.most, self.calls = model, progress, most, 0

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        self.progress(self.calls, self.most, "first look at the model")
        self.calls += 1
        return self.model(x, sigma, **extra_args)


def take(value: Any, rows: Sequence[int]) -> Any:
    """Some rows of a conditioning, whatever the host keeps it in."""
    if isinstance(value, Tensor):
        return value[list(rows)] if value.ndim else value
    if isinstance(value, dict):
        return {key: take(each, rows) for key, each in value.items()}
    if isinstance(value, list):
        return [value[i] for i in rows]
    if isinstance(getattr(value, "batch", None), list):  # MulticondLearnedConditioning
        some = copy.copy(value)
        some.batch = [value.batch[i] for i in rows]
        some.shape = (len(rows),)
        return some
    return value  # cond_scale and the like
