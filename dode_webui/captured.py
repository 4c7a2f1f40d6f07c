"""The host's own widgets of the txt2img tab: what the user is about to make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import host

PROMPT, NEGATIVE, CFG = "txt2img_prompt", "txt2img_neg_prompt", "txt2img_cfg_scale"
WIDTH, HEIGHT, STEPS = "txt2img_width", "txt2img_height", "txt2img_steps"
SCHEDULER, SAMPLER = "txt2img_scheduler", "txt2img_sampling"
DISTILLED = "txt2img_distilled_cfg_scale"  # Forge and its kin: a shift for most flow models
CAPTURED = (PROMPT, NEGATIVE, CFG, WIDTH, HEIGHT, STEPS)  # every host has these
OPTIONAL = (SCHEDULER, SAMPLER, DISTILLED)
# What is taken where a host names its widgets otherwise.
FALLBACKS: dict[str, Any] = {
    PROMPT: "", NEGATIVE: "", CFG: 7.0, WIDTH: 512, HEIGHT: 512, STEPS: 8, SCHEDULER: "Automatic",
    SAMPLER: "", DISTILLED: None,
}  # fmt: skip

widgets: dict[str, Any] = {}  # by elem_id, anew with every UI


def capture(component: Any, elem_id: str | None) -> None:
    """Called after every component that the host builds."""
    if elem_id in FALLBACKS:
        widgets[str(elem_id)] = component


def complete() -> bool:
    """Whether all that every host has is there."""
    return all(name in widgets for name in CAPTURED)


def names() -> list[str]:
    """The widgets that there are, in the order in which :func:`components` gives them."""
    return [name for name in FALLBACKS if name in widgets]


def components() -> list[Any]:
    """The inputs of an event that wants to know what is set in txt2img."""
    return [widgets[name] for name in names()]


def settings(known: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """What is set in txt2img, as a request takes it, and the sampling method."""
    found = {**FALLBACKS, **dict(zip(known, values, strict=False))}
    distilled, sampler = found[DISTILLED], str(found[SAMPLER] or "")
    scheduler = str(found[SCHEDULER] or "Automatic")
    if not host.schedule_names() and sampler.endswith(" Karras"):
        scheduler = "Karras"  # in hosts without a schedule menu the sampler's name has it
    return {
        "prompt": str(found[PROMPT] or ""),
        "negative": str(found[NEGATIVE] or ""),
        "cfg": float(found[CFG]),
        "width": int(found[WIDTH]),
        "height": int(found[HEIGHT]),
        "steps": int(found[STEPS]),
        "scheduler": scheduler,
        "sampler": sampler,
        "distilled_cfg_scale": None if distilled is None else float(distilled),
    }
