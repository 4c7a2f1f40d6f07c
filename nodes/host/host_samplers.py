"""The host's own samplers on its schedules: which of them a profile expects to come nearest."""

from __future__ import annotations

import logging
import types
from collections.abc import Mapping
from typing import Any

import comfy.samplers
from torch import Tensor

from ...dode_core.response.advice import Advice, Sampler, advise
from ...dode_core.response.profile import Profile

# Those that add no noise and choose no steps by themselves. What other packs add is left out: their
# code may have more on its mind than to sample.
NAMES = (
    *("euler", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "ipndm", "ipndm_v", "deis"),
    *("dpmpp_2m", "res_multistep", "gradient_estimation", "uni_pc", "uni_pc_bh2"),
)
SCHEDULES = (
    *("simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal"),
    *("linear_quadratic", "kl_optimal"),
)
SHOWN = 3
FULL = 0.999  # of the first sigma: a whole run starts there


def promising(profile: Profile, patcher: Any, grid: Tensor) -> list[Advice]:
    """The SHOWN of them of which least error is expected, at the evaluations of such a run.

    [] for a run that is not a whole one, and where that could not be found out.
    """
    evaluations, whole = len(grid) - 1, float(grid[0]) > FULL * profile.sigma_max
    if not whole or float(grid[-1]) > 0:
        return []
    sampling = patcher.get_model_object("model_sampling")
    names = [name for name in NAMES if name in comfy.samplers.KSAMPLER_NAMES]
    samplers = {name: _sampler(name, sampling) for name in names}

    def grids(name: str, steps: int) -> Mapping[str, Tensor]:
        found = {each: _grid(sampling, each, steps, name) for each in SCHEDULES if _known(each)}
        return {each: sigmas.cpu() for each, sigmas in found.items() if len(sigmas) == steps + 1}

    try:
        return advise(profile, samplers, grids, evaluations)[:SHOWN]
    except Exception:
        logging.exception("D-ODE: what to expect of ComfyUI's own samplers is not known.")
        return []


def words(found: list[Advice], evaluations: int) -> str:
    """One line for the report; "" where there is nothing to say."""
    if not found:
        return ""
    listed = "; ".join(f"{a.sampler}, {a.schedule} ({a.expected:.3g})" for a in found)
    return (
        f"of ComfyUI's own samplers these are expected to come nearest at {evaluations} model "
        f"evaluations, {found[0].sampler} with {found[0].schedule} first: {listed}"
    )


def _known(schedule: str) -> bool:
    return schedule in comfy.samplers.SCHEDULER_NAMES


def _grid(sampling: Any, schedule: str, steps: int, sampler: str) -> Tensor:
    """As the stock KSampler makes it; some samplers leave out the last sigma but one."""
    if sampler not in comfy.samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS:
        return comfy.samplers.calculate_sigmas(sampling, schedule, steps)
    longer = comfy.samplers.calculate_sigmas(sampling, schedule, steps + 1)
    return longer[[*range(steps), -1]]


def _sampler(name: str, sampling: Any) -> Sampler:
    found = comfy.samplers.sampler_object(name)
    run, options = found.sampler_function, found.extra_options

    def sampler(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        wrapped = _Told(model, sampling)
        return run(wrapped, x, sigmas, extra_args={}, callback=None, disable=True, **options)

    return sampler


class _Told:
    """A denoiser with what the host's samplers look for on a model: its noise levels."""

    def __init__(self, model: Any, sampling: Any) -> None:
        patcher = types.SimpleNamespace(get_model_object=lambda name: sampling)
        inner = types.SimpleNamespace(model_patcher=patcher, model_sampling=sampling)
        self.model, self.inner_model = (
            model,
            types.SimpleNamespace(model_patcher=patcher, inner_model=inner),
        )

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return self.model(x, sigma)
