"""What would happen if Generate were pressed now: the line in the accordion."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dode_core import shelf
from dode_core.errors import DodeError
from dode_core.match.best import Choice, Query
from dode_core.solve.noise import check_sigmas, infer_parametrization

from . import captured, cost, host, samplers
from .request import Request
from .sampling import ANY

DISTILL = "Distill for exactly this"  # the other button
Known = tuple[Sequence[float], str]  # sigmas and parametrisation
LARGEST_PART = 0.999  # of a schedule, as hosts take an image for their start
WORDS = {
    "exact": "exact table",
    "slice": "part of a longer table",
    "interpolated": "a table is carried over",
    "carried over": "a table is carried over from another schedule",
    "profile": "distilled once for any number of steps",
}


def shown(settings: dict[str, Any]) -> str:
    """:func:`line`, and what the two buttons of the accordion cost."""
    return line(settings) + price(settings)


def price(settings: dict[str, Any]) -> str:
    """What the two buttons cost, as HTML; nothing for what they would refuse."""
    try:
        request = Request(**captured.of_request(settings))
        exactly, once = cost.sentence(request), cost.sentence(replace(request, once=True))
    except (DodeError, ValueError):
        return ""
    return f"<div class='dode-cost'>{ANY}: {once}. {DISTILL}: {exactly}.</div>"


def line(settings: dict[str, Any]) -> str:
    """What applies to a run with these settings of the txt2img tab, as HTML."""
    sampler = settings["sampler"]
    if sampler and not samplers.is_ours(sampler):
        said = f"D-ODE acts when it is the sampling method; now that is {sampler}."
    else:
        said = f"Now: {wording(settings)}{hires(settings)}"
    return f"<div class='dode-now'>{html.escape(said)}</div>"


def wording(settings: dict[str, Any]) -> str:
    """ "8 steps, cfg 6, Karras: exact table (...)" in words that are the tab's."""
    asked = f"{settings['steps']} steps, cfg {settings['cfg']:g}, {settings['scheduler']}"
    try:
        found = found_for(settings, sigmas(settings))
    except DodeError as error:
        return f"{asked}: {error}"
    if isinstance(found, Choice) and found.resolution.table is not None:
        doubts = f"; {', '.join(found.doubts)}" if found.doubts else ""
        between = " between two cfgs" if found.resolution.between_cfgs else ""
        return f"{asked}: {WORDS.get(found.resolution.kind, 'table')}{between}{doubts}."
    if isinstance(found, str) and found:
        return f"{asked}: {found}."
    return f"{asked}: no table, so plain DPM++ 2M runs. Distill makes one."


def hires(settings: dict[str, Any]) -> str:
    """What is missing for the hires pass; empty where nothing is, and where it is off."""
    if settings["hires"] is None:
        return ""
    steps, denoise = settings["hires"]
    whole = int(steps / min(denoise, LARGEST_PART))
    try:
        known = sigmas({**settings, "steps": whole})
        if known is not None:
            known = known[0][-steps - 1 :], known[1]
        found = found_for({**settings, "steps": 0}, known)
    except DodeError:
        return ""
    served = found.resolution.table is not None if isinstance(found, Choice) else bool(found)
    if served:
        return ""
    return (
        f" Hires pass ({steps} steps at denoise {denoise:g}): no table, so plain DPM++ 2M runs; "
        f"{ANY} serves both passes."
    )


def found_for(settings: dict[str, Any], known: Known | None) -> Choice | str:
    """What would be chosen on known sigmas; else, in words, what there is for such a run."""
    who = host.identity(settings["prompt"], True, settings["distilled_cfg_scale"])
    library = host.library()
    stored, profiles = library.find(who), shelf.find_profiles(library, who)
    if known is not None:
        query = Query(known[0], known[1], settings["cfg"])
        return shelf.choose(query, who, (), lambda: stored, lambda: profiles)
    if profiles:
        return WORDS["profile"]
    if any(each.table.steps == settings["steps"] for each in stored):
        return f"there is a table for {settings['steps']} steps; it is used if it fits"
    return ""


def sigmas(settings: dict[str, Any]) -> Known | None:
    """(the sigmas that the host would make, parametrisation).

    None before a model is loaded, and for flow models, whose sigmas depend on a shift that the
    host sets only when a run begins.
    """
    model = host.loaded_model()
    if getattr(model, "sd_checkpoint_info", None) is None:
        return None
    from modules import processing, sd_samplers

    name = settings["sampler"] or samplers.NAME
    config = sd_samplers.all_samplers_map.get(name)
    if config is None:
        return None
    try:
        sampler = config.constructor(model)
        sampler.config = config
        kind = infer_parametrization(sampler.model_wrap_cfg, (0.0,))
        if kind == "flow":
            return None
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=model, steps=settings["steps"], cfg_scale=settings["cfg"]
        )
        p.sampler_name, p.scheduler = name, settings["scheduler"]
        return check_sigmas(sampler.get_sigmas(p, settings["steps"])), kind
    except DodeError:
        raise
    except Exception:  # a host that wants more than this before a run: it is only a preview
        return None
