"""A calibration as a sampler: what every kind of it does before the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .cost import seconds_each
from .live import Live
from .prompts import by_prompt
from .told import Told


class HiddenSampler:
    """A sampler function that a guider calls, and that calibrates instead of sampling.

    ``kind`` is the model's parametrisation, ``batch_size`` how many samples it is asked about at
    once.
    """

    def __init__(self, kind: str, batch_size: int, live: Live) -> None:
        self.kind, self.batch_size, self.live = kind, batch_size, live

    def grid(self, sigmas: Tensor) -> Sequence[float]:
        """The steps on which a few-step model would show; above 0 at the end for none."""
        raise NotImplementedError

    def most(self, sigmas: Tensor, samples: int) -> int:
        """Model evaluations, of all samples together, that the work makes at most."""
        raise NotImplementedError

    def work(self, model: Told, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any]) -> None:
        """Calibrate on the scaled noise x, (B, ...) at the first sigma, and keep the result."""
        raise NotImplementedError

    def __call__(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
    ) -> Tensor:
        """Work on the scaled noise ``x``, which is returned as it came.

        What cannot work and what it will cost is said before: raises :class:`CalibrationError`.
        """
        from ...dode_core.fit import few_step  # not before there is work
        from ...dode_core.fit.steady import check_steady

        inner, extra_args = by_prompt(model, len(x), extra_args or {})
        told, grid, size = Told(inner), self.grid(sigmas), self.batch_size
        check_steady(told, x, float(sigmas[0]), self.kind, extra_args)
        look = few_step.evaluations(len(grid) - 1, len(x)) if grid[-1] == 0 else 0
        each = seconds_each(told, x, float(sigmas[0]), extra_args, size)
        self.live.expect(look + self.most(sigmas, len(x)), each)
        if look:
            few = few_step.already_few_step(told, x, grid, self.kind, extra_args, batch_size=size)
            self.live.say(few)
        self.work(told, x, sigmas, extra_args)
        return x
