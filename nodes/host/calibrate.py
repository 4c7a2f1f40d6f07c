"""Calibration as a sampler: LoRA, ControlNet, guidance and memory are the host's own.

``guider.sample`` loads the model and prepares the conditioning, then calls a function with a
sampler's signature: it runs teacher and student and keeps the table.
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...dode_core.errors import CalibrationError
from ...dode_core.fit.teacher import Teacher
from ...dode_core.methods import default_method, get_method
from ...dode_core.refining import seed_for
from ...dode_core.solve.noise import check_sigmas
from ...dode_core.solve.scheme import Scheme
from ...dode_core.step_counts import step_counts
from ...dode_core.tables.table import LambdaTable
from . import before_work
from .hidden_sampler import HiddenSampler
from .live import Live
from .models import parametrization
from .told import Told


@dataclass(frozen=True)
class DistillSettings:
    """What to distill, and on how much."""

    solver: str
    teacher: Teacher
    samples: int
    holdout: float
    seed: int
    batch_size: int
    cfg: float | None
    method: str = default_method()
    start: LambdaTable | None = None  # of the model's profile: learning goes on from there

    def __post_init__(self) -> None:
        get_method(self.method)
        if self.samples < 2 and self.holdout > 0:
            raise CalibrationError(
                f"{self.samples} sample cannot be fitted and held out at once (holdout is "
                f"{self.holdout:g}); use 2 samples or more, or holdout 0."
            )


class DistillSampler(HiddenSampler):
    """The sampler function that distills; ``table`` is its result."""

    def __init__(self, settings: DistillSettings, kind: str, live: Live) -> None:
        super().__init__(kind, settings.batch_size, live)
        self.settings = settings
        self.table: LambdaTable | None = None

    def grid(self, sigmas: Tensor) -> Sequence[float]:
        return check_sigmas(sigmas)

    def most(self, sigmas: Tensor, samples: int) -> int:
        from ...dode_core.fit.counting import most_evaluations  # not before there is work

        return most_evaluations(self._distillation(sigmas), samples)

    def work(self, model: Told, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any]) -> None:
        if get_method(self.settings.method).learn_sigmas and not descends(sigmas):
            logging.warning("D-ODE: sigmas that do not descend stay as they are.")
        how = {"extra_args": extra_args, "progress": self.live, "batch_size": self.batch_size}
        self.table = self._distillation(sigmas)(model, x, **how)

    def _distillation(self, sigmas: Tensor) -> Callable[..., LambdaTable]:
        from ...dode_core.distillation import distill  # not before there is work
        from ...dode_core.fit.peers import PEERS

        method = get_method(self.settings.method)
        return partial(
            distill,
            sigmas=sigmas,
            solver=self.settings.solver,
            teacher=self.settings.teacher,
            holdout=self.settings.holdout,
            parametrization=self.kind,
            directions=method.directions,
            learn_sigmas=method.learn_sigmas and descends(sigmas),
            peers=tuple(PEERS),
            starts=() if self.settings.start is None else (self.settings.start,),
        )


def descends(sigmas: Tensor) -> bool:
    """Whether sigmas fall from step to step."""
    return all(a > b for a, b in itertools.pairwise(sigmas.tolist()))


def calibrate(
    guider: Any, latent: Any, sigmas: Tensor, settings: DistillSettings, live: Live
) -> LambdaTable:
    """Distill with a guider on noise for ``settings.samples`` copies of a latent.

    latent: the tensor of a LATENT, channels already the model's. sigmas: (steps + 1,).
    Raises :class:`DodeError`, and the host's own exception on interrupt.
    """
    if len(check_sigmas(sigmas)) < 2:
        raise CalibrationError("The schedule has 1 sigma, which makes no step; give at least 2.")
    before_work.check_start(guider.model_patcher, latent, sigmas)
    before_work.check_caches(guider.model_patcher)
    latent = repeat(latent, settings.samples)
    kind = parametrization(guider.model_patcher)
    scheme = Scheme(settings.solver, kind, get_method(settings.method).directions)
    starts = [] if settings.start is None else [settings.start]
    noise = comfy.sample.prepare_noise(latent, seed_for(settings.seed, starts, [scheme]))
    calibration = DistillSampler(settings, kind, live)
    sampler = comfy.samplers.KSAMPLER(calibration)
    reserving(guider, settings.batch_size).sample(
        noise, latent, sampler, sigmas, disable_pbar=True, seed=settings.seed
    )
    if calibration.table is None:
        raise CalibrationError("The guider did not run the calibration; use another guider.")
    return calibration.table


def make_guider(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    kind: type[Any] = comfy.samplers.CFGGuider,
) -> Any:
    """The host's own guider; without a negative at cfg 1, where it takes none."""
    if negative is None and cfg != 1:
        raise CalibrationError(
            f"cfg is {cfg:g}, which needs a negative; connect one, or use cfg 1."
        )
    guider = kind(model)
    guider.set_conds(positive, positive if negative is None else negative)
    guider.set_cfg(cfg)
    return guider


def chosen_guider(guider: Any, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """The guider that is connected, or the host's own around what is connected instead."""
    if guider is None:
        if model is None or positive is None:
            missing = "a model" if model is None else "positive"
            raise CalibrationError(
                f"{missing} is not connected; connect model, positive and negative, or a GUIDER."
            )
        return make_guider(model, positive, negative, cfg)
    if not (model is None and positive is None and negative is None):
        raise CalibrationError(
            "A GUIDER is connected, and a model or conditioning as well; disconnect one of the "
            "two, so that it is clear what is distilled."
        )
    return guider


def reserving(guider: Any, batch_size: int) -> Any:
    """A copy of a guider that is told that at most ``batch_size`` latents are in memory at once."""

    def reserve(
        execute: Callable[..., Any], patcher: Any, shape: Any, *rest: Any, **kw: Any
    ) -> Any:
        return execute(patcher, [min(shape[0], batch_size), *shape[1:]], *rest, **kw)

    own = copy.copy(guider)
    own.model_patcher = guider.model_patcher.clone()
    own.model_patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "dode", reserve)
    return own


def repeat(latent: Any, count: int) -> Any:
    """A latent, plain or nested, repeated or cut to a batch of ``count``."""
    if latent.is_nested:
        return NestedTensor([repeat(part, count) for part in latent.unbind()])
    return comfy.utils.repeat_to_batch_size(latent, count)


def prepare_latent(model: Any, latent: dict[str, Any]) -> Any:
    """The tensor of a LATENT, an empty one with the channels that the model takes."""
    return comfy.sample.fix_empty_latent_channels(model, latent["samples"])


def emptied(latent: Any) -> Any:
    """An empty latent of the same shape: a table is made on noise alone."""
    if latent.is_nested:
        return NestedTensor([torch.zeros_like(part) for part in latent.unbind()])
    return torch.zeros_like(latent)


def schedule(
    model: Any, scheduler: str, steps: int, denoise: float = 1.0, sampler: str | None = None
) -> Tensor:
    """The sigmas that the stock KSampler would use; those of ``sampler``, where it has its own."""
    known = comfy.samplers.SCHEDULER_NAMES
    if scheduler not in known:
        raise CalibrationError(
            f"Scheduler {scheduler!r} is unknown; use one of {', '.join(known)}."
        )
    plan = comfy.samplers.KSampler(model, steps, "cpu", sampler or "euler", scheduler, denoise)
    return plan.sigmas.to(torch.float32)


def grids(patcher: Any, sigmas: Tensor | None, scheduler: str, steps: str | int) -> list[Tensor]:
    """The connected sigmas, or the scheduler's for every step count that is asked for."""
    if sigmas is not None:
        return [sigmas]
    return [schedule(patcher, scheduler, n) for n in step_counts(steps)]
