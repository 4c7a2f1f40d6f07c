"""Every deterministic sampler of a real ComfyUI, its own code, on its own and borrowed grids."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode_core.learn.starts import log_normal
from dode_core.solve.schedules import karras

from . import exponential
from .common import comfy_sampling

Sampler = Callable[..., Tensor]
NAMES = (
    "euler",
    "heun",
    "heunpp2",
    "dpm_2",
    "lms",
    "ipndm",
    "ipndm_v",
    "deis",
    "dpmpp_2m",
    "res_multistep",
    "gradient_estimation",
    "exp_heun_2_x0",  # newer versions only
)
DISCARD_PENULTIMATE = ("dpm_2", "uni_pc", "uni_pc_bh2")  # as ComfyUI's KSampler does
HOST_SCHEDULERS = ("karras", "normal", "simple", "sgm_uniform", "beta", "exponential", "kl_optimal")
GITS_COEFFICIENTS = (0.8, 1.0, 1.2, 1.5)
# What was added later, so that results of before say what they were compared with.
NEWER_SAMPLERS = ("seeds_2", "seeds_3", "sa_solver_pece", "dpm_fast", "res_2s", "res_3m")
NEWER_SCHEDULERS = ("linear_quadratic", "ddim_uniform", "beta57")
LOG_NORMAL = (0.3, 1.5)  # centre and spread of its nodes in minus log-SNR; for flow models below
LOG_NORMAL_FLOW = (-0.3, 1.0)
SHORT_KARRAS = (0.03, 0.1)  # the lowest sigma raised: what a careful user would try at few steps


class Host:
    """Peers and grids for one model: its parametrisation and sigma range."""

    def __init__(self, parametrization: str, low: float, high: float) -> None:
        self.k = comfy_sampling()
        self.parametrization, self.low, self.high = parametrization, low, high
        self.model_sampling = self._model_sampling()

    def _model_sampling(self) -> Any:
        import comfy.model_sampling as ms

        if self.parametrization == "flow":
            sampling = type("Flow", (ms.ModelSamplingDiscreteFlow, ms.CONST), {})()
            sampling.set_parameters(shift=1.0, multiplier=1.0)
            return sampling
        sampling = type("VE", (ms.ModelSamplingContinuousEDM, ms.EPS), {})()
        sampling.set_parameters(self.low, self.high, 0.5)
        return sampling

    def samplers(self) -> dict[str, Sampler]:
        """Name to ``fn(model, x, sigmas, extra_args, disable=...)``; noise switched off."""
        import comfy.extra_samplers.uni_pc as uni_pc

        found: dict[str, Sampler] = {
            name: getattr(self.k, f"sample_{name}")
            for name in NAMES
            if hasattr(self.k, f"sample_{name}")
        }
        found["er_sde"] = partial(self.k.sample_er_sde, s_noise=0.0)
        found["sa_solver"] = partial(self.k.sample_sa_solver, tau_func=lambda t: 0.0, s_noise=0.0)
        for name in ("seeds_2", "seeds_3"):
            found[name] = partial(getattr(self.k, f"sample_{name}"), eta=0.0, s_noise=0.0)
        found["sa_solver_pece"] = partial(
            self.k.sample_sa_solver_pece, tau_func=lambda t: 0.0, s_noise=0.0
        )
        found["dpm_fast"] = self._dpm_fast
        found |= {"res_2s": exponential.res_2s, "res_3m": exponential.res_3m}
        found["uni_pc"] = uni_pc.sample_unipc
        found["uni_pc_bh2"] = uni_pc.sample_unipc_bh2
        return {name: self._own_sigmas(fn) for name, fn in found.items()}

    def _dpm_fast(self, model: Any, x: Tensor, sigmas: Tensor, **how: Any) -> Tensor:
        """As ComfyUI's KSampler calls it: only the ends of the sigmas count."""
        low = sigmas[-1] if sigmas[-1] > 0 else sigmas[-2]
        return self.k.sample_dpm_fast(
            model, x, float(low), float(sigmas[0]), len(sigmas) - 1, **how
        )

    def _own_sigmas(self, fn: Sampler) -> Sampler:
        """Some peers write into the sigmas they are given; each call gets its own copy."""

        def sampler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any) -> Tensor:
            wrapped = Guided(model, self.model_sampling)
            return fn(wrapped, x.clone(), sigmas.clone(), extra_args=extra_args, disable=True)

        return sampler

    def grids(self) -> list[str]:
        names = list(HOST_SCHEDULERS)
        if self.parametrization == "ve":
            names += [f"karras {low:g}" for low in SHORT_KARRAS]
        names += ["ays SD1", "ays SDXL", "ays SVD"] + [f"gits {c}" for c in GITS_COEFFICIENTS]
        return names + self.newer_grids()

    def newer_grids(self) -> list[str]:
        """Those that were added later."""
        names = [*NEWER_SCHEDULERS, "log-normal"]
        if self.parametrization == "flow":
            return [*names, "bong_tangent", "optimal FLUX", "optimal Wan", "optimal Chroma"]
        return [*names, "laplace", "polyexponential 0.7", "polyexponential 1.5"]

    def grid(self, name: str, steps: int, peer: str = "") -> Tensor | None:
        """Float32 sigmas of ``steps`` steps ending at 0; None where the grid has no such size."""
        if peer in DISCARD_PENULTIMATE:
            longer = self._grid(name, steps + 1)
            return None if longer is None else torch.cat([longer[:-2], longer[-1:]])
        return self._grid(name, steps)

    def _grid(self, name: str, steps: int) -> Tensor | None:
        import comfy.samplers

        kind, _, detail = name.partition(" ")
        if kind == "karras" and detail:
            return karras(steps, float(detail), self.high).float()
        if (found := self._newer_grid(kind, detail, steps)) is not None:
            return found
        if kind == "ays":
            from comfy_extras.nodes_align_your_steps import NOISE_LEVELS

            return self._borrow(NOISE_LEVELS[detail], steps)
        if kind == "gits":
            from comfy_extras.nodes_gits import NOISE_LEVELS

            levels = NOISE_LEVELS[float(detail)]  # of 2 steps and more; the last is stretched
            nearest = min(steps, len(levels) + 1) - 2
            return self._borrow(levels[nearest], steps) if steps > 1 else None
        if name in ("karras", "exponential", "kl_optimal", "laplace") and steps < 2:
            return None
        if kind in ("polyexponential", "log-normal", "optimal", "bong_tangent"):
            return None
        sigmas = comfy.samplers.calculate_sigmas(self.model_sampling, name, steps)
        return sigmas.float() if len(sigmas) == steps + 1 and sigmas[-1] == 0 else None

    def _newer_grid(self, kind: str, detail: str, steps: int) -> Tensor | None:
        """Grids of those that were added later; None where there is none of such a size."""
        import comfy.samplers

        low, high, flow = self.low, self.high, self.parametrization == "flow"
        if steps < 2:
            return None
        if kind == "beta57":
            found = comfy.samplers.beta_scheduler(self.model_sampling, steps, alpha=0.5, beta=0.7)
            return found.float() if len(found) == steps + 1 else None
        if kind == "log-normal":
            where = LOG_NORMAL_FLOW if flow else LOG_NORMAL
            nodes = log_normal(steps, 1.0 if flow else high, low, *where, self.parametrization)
            return None if nodes is None else torch.tensor(nodes)
        if kind == "bong_tangent":
            found = exponential.bong_tangent(steps).float()
            falls = bool((found[1:] < found[:-1]).all())
            return found if len(found) == steps + 1 and falls else None
        if kind == "optimal":
            from comfy_extras.nodes_optimalsteps import NOISE_LEVELS, loglinear_interp

            found = torch.tensor(loglinear_interp(NOISE_LEVELS[detail], steps + 1)).float()
            found[-1] = 0
            return found
        if kind == "polyexponential":
            return self.k.get_sigmas_polyexponential(steps, low, high, rho=float(detail))
        if kind == "laplace":
            return torch.cat([self.k.get_sigmas_laplace(steps, low, high), torch.zeros(1)])
        return None

    def _borrow(self, levels: list[float], steps: int) -> Tensor:
        """A published grid in this model's range: log-SNR mapped linearly, interpolated to size."""
        logs = np.log(np.asarray(levels, dtype=float))
        if len(levels) != steps + 1:
            at = np.linspace(0, len(levels) - 1, steps + 1)
            logs = np.interp(at, np.arange(len(levels)), logs)
        low, high = max(self.low, 0.03), self.high
        if self.parametrization == "flow":  # sigma/(1 - sigma) plays the part of sigma
            low, high = 0.03, 14.6
        logs = np.log(low) + (logs - logs[-1]) / (logs[0] - logs[-1]) * np.log(high / low)
        ratio = torch.tensor(np.exp(logs), dtype=torch.float64)
        sigmas = ratio / (1 + ratio) if self.parametrization == "flow" else ratio
        if self.parametrization == "flow":
            sigmas[0] = 1.0
        sigmas[-1] = 0.0
        return sigmas.float()

    def steps_for(self, sampler: Sampler, nfe: int, peer: str) -> int | None:
        """Steps at which a peer makes exactly ``nfe`` model evaluations, counted by running it."""
        for steps in range(1, nfe + 2):
            sigmas = self.grid("simple", steps, peer)
            if sigmas is None:
                continue
            calls = 0

            def count(x: Tensor, sigma: Tensor) -> Tensor:
                nonlocal calls
                calls += 1
                return 0.5 * x

            try:
                sampler(count, torch.ones(1, 1, 2, 2) * sigmas[0], sigmas, {})
            except Exception:  # too few steps for this peer
                continue
            if calls == nfe:
                return steps
        return None


class Guided:
    """A denoiser with the attributes that ComfyUI's samplers look for."""

    def __init__(self, model: Any, model_sampling: Any) -> None:
        self.model = model
        patcher = types.SimpleNamespace(get_model_object=lambda name: model_sampling)
        self.inner_model = types.SimpleNamespace(model_patcher=patcher, inner_model=patcher)
        self.inner_model.inner_model.model_sampling = model_sampling

    def __call__(self, x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
        return self.model(x, sigma, **extra_args)
