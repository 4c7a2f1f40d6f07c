"""The sigmas of a run that has not begun, as the host would make them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from dode_core.errors import DodeError
from dode_core.solve.noise import check_sigmas, infer_parametrization

from . import host, samplers

Known = tuple[Sequence[float], str]  # sigmas and parametrisation


def sigmas(settings: dict[str, Any], last: int | None = None) -> Known | None:
    """(the sigmas that the host would make, parametrisation); with ``last`` of so many last steps.

    None before the model that will run is loaded, and where a host keeps its sigmas in a way that
    is not known here.
    """
    model = host.loaded_model()
    if getattr(model, "sd_checkpoint_info", None) is None or host.is_switching():
        return None
    try:
        return _sigmas(model, settings, last)
    except DodeError:
        raise
    except Exception:  # a host that wants more than this before a run: it is only a preview
        return None


def _sigmas(model: Any, settings: dict[str, Any], last: int | None) -> Known | None:
    from modules import processing, sd_samplers

    name = settings["sampler"] or samplers.NAME
    config = sd_samplers.all_samplers_map.get(name)
    if config is None:
        return None
    sampler = config.constructor(model)
    sampler.config = config
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=model,
        steps=settings["steps"],
        cfg_scale=settings["cfg"],
        width=settings["width"],
        height=settings["height"],
    )
    p.sampler_name, p.scheduler = name, settings["scheduler"]
    kind = infer_parametrization(sampler.model_wrap_cfg, (0.0,))
    if kind == "flow" and getattr(model, "use_shift", False) is True:
        default = getattr(p, "distilled_cfg_scale", None)
        asked = settings["distilled_cfg_scale"]
        shift(sampler, default if asked is None else asked)
    grid = check_sigmas(sampler.get_sigmas(p, settings["steps"]))
    if last is None:
        return grid, kind
    # The passes that run a part have a size of their own, on which some schedules depend.
    p.width, p.height = 2 * p.width, 2 * p.height
    if check_sigmas(sampler.get_sigmas(p, settings["steps"])) != grid:
        return None
    return grid[-last - 1 :], kind


def shift(sampler: Any, value: float | None) -> None:
    """Give a sampler sigmas of its own at a shift, which the host sets when a run begins.

    The model's are left alone: another run may be using them.
    """
    own = copy.deepcopy(sampler.model_wrap.predictor)
    own.set_parameters(shift=value)
    sampler.model_wrap = type(sampler.model_wrap)(own)
