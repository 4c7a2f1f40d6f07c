"""What a diffusers scheduler knows of its model: noise levels, timesteps, and what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import DodeError


class PipelineNoise:
    """Models that are trained on x0 + sigma * eps: SD 1, SD 2, SDXL."""

    parametrization = "ve"

    def __init__(self, scheduler: Any) -> None:
        schedulers = import_module("diffusers")

        self.base: Any = schedulers.EulerDiscreteScheduler.from_config(scheduler.config)
        self.config = self.base.config
        self.kind = self.config.prediction_type
        if self.kind not in ("epsilon", "v_prediction", "sample"):
            raise DodeError(
                f"The model predicts {self.kind!r}; epsilon, v_prediction and sample can be run."
            )
        products = self.base.alphas_cumprod.double().clamp(min=2**-24)
        self.logs = ((1 - products) / products).sqrt().log()

    @property
    def highest(self) -> float:
        """The highest sigma of the model."""
        return float(self.logs[-1].exp())

    def timesteps(self, sigmas: Sequence[float]) -> Tensor:
        """Training timesteps, interpolated in log sigma; float32 on the CPU."""
        log = torch.tensor(sigmas, dtype=torch.float64).log().clamp(self.logs[0], self.logs[-1])
        high = torch.searchsorted(self.logs, log).clamp(1, len(self.logs) - 1)
        low = high - 1
        at = low + (log - self.logs[low]) / (self.logs[high] - self.logs[low])
        return at.float()

    def sigmas(
        self, steps: int, sigmas: Sequence[float] | None = None, mu: float | None = None
    ) -> list[float]:
        """The grid that diffusers' Euler would run, its final sigma included."""
        if sigmas is None:
            self.base.set_timesteps(steps)
        else:
            self.base.set_timesteps(sigmas=list(sigmas))
        return self.base.sigmas.tolist()

    def denoised(self, x: Tensor, sigma: float, output: Tensor) -> Tensor:
        """x0 from the network's output at the state x."""
        if self.kind == "epsilon":
            return x - sigma * output
        if self.kind == "sample":
            return output
        return x / (1 + sigma**2) - sigma / (1 + sigma**2) ** 0.5 * output


class FlowNoise(PipelineNoise):
    """Rectified flow: SD3, Flux."""

    parametrization = "flow"

    def __init__(self, scheduler: Any) -> None:
        schedulers = import_module("diffusers")

        config = dict(scheduler.config)
        config.setdefault("shift", config.get("flow_shift") or 1.0)
        self.base = schedulers.FlowMatchEulerDiscreteScheduler.from_config(config)
        self.config = self.base.config

    @property
    def highest(self) -> float:
        return 1.0

    def timesteps(self, sigmas: Sequence[float]) -> Tensor:
        """sigma * 1000."""
        return torch.tensor(sigmas, dtype=torch.float32) * self.config.num_train_timesteps

    def sigmas(
        self, steps: int, sigmas: Sequence[float] | None = None, mu: float | None = None
    ) -> list[float]:
        """The pipeline's own grid, shifted as its configuration says."""
        given = None if sigmas is None else [float(sigma) for sigma in sigmas]
        self.base.set_timesteps(None if given else steps, sigmas=given, mu=mu)
        return self.base.sigmas.tolist()

    def denoised(self, x: Tensor, sigma: float, output: Tensor) -> Tensor:
        """x - sigma * velocity."""
        return x - sigma * output


def noise_of(scheduler: Any) -> PipelineNoise:
    """The noise levels of a pipeline's scheduler. Raises :class:`DodeError`."""
    if isinstance(scheduler, PipelineNoise):
        return scheduler
    try:
        import_module("diffusers")
    except ImportError as error:
        raise DodeError("diffusers is not installed; run: pip install diffusers.") from error
    config = getattr(scheduler, "config", None)
    if config is None:
        raise DodeError(
            f"The scheduler is a {type(scheduler).__name__} without a configuration; pass "
            "pipe.scheduler."
        )
    named = type(scheduler).__name__.startswith("FlowMatch")
    predicts = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    return FlowNoise(scheduler) if named or predicts else PipelineNoise(scheduler)
