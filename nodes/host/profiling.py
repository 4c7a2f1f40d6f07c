"""Distilling once: a profile of a MODEL at its cfg, from which every later run is served."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...dode_core.errors import CalibrationError
from ...dode_core.response.profile import Profile
from ...dode_core.shelf import StoredProfile, find_same_profile
from . import before_work, calibrate, models, store
from .hidden_sampler import HiddenSampler
from .live import Live
from .told import Told


@dataclass(frozen=True)
class ProfileWork:
    """What a profile is made of. ``latent``: the tensor of a LATENT, channels the model's."""

    guider: Any
    latent: Any
    identity: models.Identity
    samples: int = 16
    holdout: float = 0.25
    seed: int = 0
    batch_size: int = 4
    file: Path | None = None  # the user's own choice: profiles elsewhere do not count

    @property
    def cfg(self) -> float | None:
        return models.guidance(self.guider)

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.latent.is_nested else tuple(self.latent.shape[1:])


class ProfileSampler(HiddenSampler):
    """The sampler function that makes a profile; ``profile`` is its result."""

    def __init__(self, work: ProfileWork, live: Live) -> None:
        super().__init__(models.parametrization(work.guider.model_patcher), work.batch_size, live)
        self.holdout = work.holdout
        self.profile: Profile | None = None

    def grid(self, sigmas: Tensor) -> Sequence[float]:
        from ...dode_core.fit.few_step import few_step_grid  # not before there is work

        high, low = sigmas.tolist()[:2]
        return few_step_grid(high, low, self.kind)

    def most(self, sigmas: Tensor, samples: int) -> int:
        return calibration().QUICK_BUDGET * samples

    def work(self, model: Told, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any]) -> None:
        high, low = sigmas.tolist()[:2]
        self.profile = calibration().calibrate(
            model,
            x,
            high,
            low,
            extra_args=extra_args,
            parametrization=self.kind,
            holdout=self.holdout,
            progress=self.live,
            batch_size=self.batch_size,
        )


def calibration() -> Any:
    """The core's module, which is not loaded before there is work."""
    from ...dode_core import calibration

    return calibration


def sigma_range(patcher: Any) -> tuple[float, float]:
    """A MODEL's own first and last sigma, whatever the scheduler."""
    sampling = patcher.get_model_object("model_sampling")
    return float(sampling.sigma_max), float(sampling.sigma_min)


def make_profile(work: ProfileWork, live: Live) -> Profile:
    """Calibrate with a guider. Raises :class:`DodeError`, and the host's own on interrupt."""
    calibration().check_samples(work.samples)
    before_work.check_caches(work.guider.model_patcher)
    high, low = sigma_range(work.guider.model_patcher)
    latent = calibrate.repeat(work.latent, work.samples)
    noise = comfy.sample.prepare_noise(latent, work.seed)
    sampler = ProfileSampler(work, live)
    sigmas = torch.tensor([high, low, 0.0])
    calibrate.reserving(work.guider, work.batch_size).sample(
        noise,
        latent,
        comfy.samplers.KSAMPLER(sampler),
        sigmas,
        disable_pbar=True,
        seed=work.seed,
    )
    if sampler.profile is None:
        raise CalibrationError("The guider did not run the calibration; use another guider.")
    return sampler.profile


def find_or_make_profile(
    work: ProfileWork, live: Live, reuse: bool = True
) -> tuple[StoredProfile, str]:
    """(a profile, what was done for it)."""
    found = find(work) if reuse else None
    if found is not None:
        return found, f"found in {store.shown(found.file)}, nothing to do"
    if live.teller is not None:
        live.teller.part("distilling for any number of steps")
    began = time.monotonic()
    profile = make_profile(work, live)
    how = work.identity, work.cfg, work.seed, work.file
    profile, file, note = store.save_profile(profile, *how)
    where = f"saved in {store.shown(file)}" + (f"; {note}" if note else "")
    said = f"\n{live.note}" if live.note else ""
    return StoredProfile(profile, file), f"{time.monotonic() - began:.1f} s, {where}{said}"


def find(work: ProfileWork) -> StoredProfile | None:
    """The profile that is there already."""
    stored = store.find_profiles(work.identity)
    if work.file is not None:
        stored = [each for each in stored if each.file == work.file]
    return find_same_profile(stored, work.identity, work.cfg, work.shape)
