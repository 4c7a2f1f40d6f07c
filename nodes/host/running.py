"""Sampling as the stock nodes do it: noise, mask, progress and preview of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
import comfy.sample
import comfy.utils
from torch import Tensor

from .live import Live

Report = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class SeededLatent:
    """The LATENT to start from and the seed of its noise."""

    latent: dict[str, Any]
    seed: int


def sample(
    guider: Any,
    sampler: Any,
    sigmas: Tensor,
    plan: SeededLatent,
    live: Live,
    report: Report | None = None,
) -> dict[str, Any]:
    """The denoised LATENT. ``report(done, total, denoised)`` replaces the bar's own progress."""
    report = report or live
    content = comfy.sample.fix_empty_latent_channels(guider.model_patcher, plan.latent["samples"])
    noise = comfy.sample.prepare_noise(content, plan.seed, plan.latent.get("batch_index"))

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        report(step + 1, total, denoised)

    found = guider.sample(
        noise,
        content,
        sampler,
        sigmas,
        denoise_mask=plan.latent.get("noise_mask"),
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=plan.seed,
    )
    return {**plan.latent, "samples": found.to(management.intermediate_device())}
