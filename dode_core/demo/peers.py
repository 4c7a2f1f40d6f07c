"""Built-in samplers of the hosts, their own code where PyPI has it, to compare against."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any

from torch import Tensor

Sampler = Callable[..., Tensor]
FROM_K_DIFFUSION = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")


def k_diffusion_sampling() -> Any:
    """k-diffusion's own ``sampling`` module, without the training tools its package imports.

    Raises ImportError when k-diffusion is not installed.
    """
    if "k_diffusion" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("k-diffusion is not installed")
        package = types.ModuleType("k_diffusion")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["k_diffusion"] = package
    return importlib.import_module("k_diffusion.sampling")


def peers() -> dict[str, Sampler]:
    """Deterministic built-in samplers, ``fn(model, x, sigmas, extra_args, disable=...)``.

    euler, heun, dpm_2, lms and dpmpp_2m are k-diffusion's own functions. ipndm, deis and
    gradient_estimation exist only inside ComfyUI; our plain solvers equal them (the tests compare
    the numbers), so those stand in.
    """
    from ..sampler import of_stages, run_resolved, sample
    from ..solve.solvers import SOLVERS

    def plain(name: str) -> Sampler:
        def sampler(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, disable: Any) -> Tensor:
            return sample(model, x, sigmas, extra_args, disable=disable, solver=name)

        return sampler

    def gradient_estimation(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any, disable: Any
    ) -> Tensor:
        stages = SOLVERS["ddim"].stages(sigmas.tolist())
        rows = [(float(k > 0 and stage.sigma_next > 0),) for k, stage in enumerate(stages)]
        given = of_stages(stages, lambdas=rows)
        return run_resolved(model, x, given, extra_args, disable=disable)

    found: dict[str, Sampler] = {"ipndm": plain("ipndm"), "deis": plain("deis")}
    found["gradient_estimation"] = gradient_estimation
    try:
        sampling = k_diffusion_sampling()
    except ImportError:
        return found | {"euler": plain("ddim"), "dpmpp_2m": plain("dpmpp_2m")}
    return found | {name: getattr(sampling, f"sample_{name}") for name in FROM_K_DIFFUSION}


def peer_evaluations(name: str, steps: int) -> int:
    """Model evaluations of a peer for a number of steps on a grid that ends at 0."""
    return 2 * steps - 1 if name in ("heun", "dpm_2") else steps
