"""What would happen if Generate were pressed now: the line in the accordion."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from dode_core import shelf
from dode_core.errors import DodeError
from dode_core.match.best import Choice, Query
from dode_core.solve.noise import check_sigmas, infer_parametrization
from dode_core.tables.library import Stored

from . import host, samplers

WORDS = {
    "exact": "exact table",
    "slice": "part of a longer table",
    "interpolated": "a table is carried over",
    "carried over": "a table is carried over from another schedule",
    "profile": "distilled once for any number of steps",
}


def line(settings: dict[str, Any]) -> str:
    """What applies to a run with these settings of the txt2img tab, as HTML."""
    sampler = settings["sampler"]
    if sampler and not samplers.is_ours(sampler):
        said = f"D-ODE acts when it is the sampling method; now that is {sampler}."
    else:
        said = f"Now: {wording(settings)}"
    return f"<div class='dode-now'>{html.escape(said)}</div>"


def wording(settings: dict[str, Any]) -> str:
    """ "8 steps, cfg 6, Karras: exact table (...)" in words that are the tab's."""
    asked = f"{settings['steps']} steps, cfg {settings['cfg']:g}, {settings['scheduler']}"
    try:
        found, choice = found_for(settings)
    except DodeError as error:
        return f"{asked}: {error}"
    if choice is not None and choice.resolution.table is not None:
        doubts = f"; {', '.join(choice.doubts)}" if choice.doubts else ""
        between = " between two cfgs" if choice.resolution.between_cfgs else ""
        return f"{asked}: {WORDS.get(choice.resolution.kind, 'table')}{between}{doubts}."
    if choice is None and found:
        return f"{asked}: there is a table for {settings['steps']} steps; it is used if it fits."
    return f"{asked}: no table, so plain DPM++ 2M runs. Distill makes one."


def found_for(settings: dict[str, Any]) -> tuple[list[Stored], Choice | None]:
    """(tables of so many steps, what would be chosen where the sigmas are known beforehand)."""
    who = host.identity(settings["prompt"], True, settings["distilled_cfg_scale"])
    library = host.library()
    stored = library.find(who)
    known = sigmas(settings)
    if known is None:
        return [each for each in stored if each.table.steps == settings["steps"]], None
    grid, kind = known
    profiles = shelf.find_profiles(library, who)
    query = Query(grid, kind, settings["cfg"])
    return stored, shelf.choose(query, who, (), lambda: stored, lambda: profiles)


def sigmas(settings: dict[str, Any]) -> tuple[Sequence[float], str] | None:
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
