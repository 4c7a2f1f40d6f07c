"""The host's own widgets of the txt2img tab: what the user is about to make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import host
from .options import AUTOMATIC

PROMPT, NEGATIVE, CFG = "txt2img_prompt", "txt2img_neg_prompt", "txt2img_cfg_scale"
WIDTH, HEIGHT, STEPS = "txt2img_width", "txt2img_height", "txt2img_steps"
SCHEDULER, SAMPLER = "txt2img_scheduler", "txt2img_sampling"
DISTILLED = "txt2img_distilled_cfg_scale"  # Forge and its kin: a shift for most flow models
HIRES, HIRES_STEPS = "txt2img_hr-checkbox", "txt2img_hires_steps"
DENOISE = "txt2img_denoising_strength"  # of the hires pass
HIRES_CFG, HIRES_DISTILLED = "txt2img_hr_cfg", "txt2img_hr_distilled_cfg"  # where it has its own
HIRES_SAMPLER, HIRES_SCHEDULER, SAME = "hr_sampler", "hr_scheduler", "Use same "
# A text about the images, anew with them. No HTML would do: in gradio 4.40 its changes never end.
INFO = "generation_info_txt2img"
# The menu of checkpoints; and a text of all settings, anew when the host has taken one over: there
# A1111 has loaded the checkpoint.
CHECKPOINT, SETTINGS = "setting_sd_model_checkpoint", "settings_json"
CAPTURED = (PROMPT, NEGATIVE, CFG, WIDTH, HEIGHT, STEPS)  # every host has these
# Ours, in the accordion of each tab.
TABLE, KEEP = "txt2img_dode_table", "txt2img_dode_keep_schedule"
OPTIONAL = (
    SCHEDULER, SAMPLER, DISTILLED, HIRES, HIRES_STEPS, DENOISE, HIRES_CFG, HIRES_DISTILLED,
    HIRES_SAMPLER, HIRES_SCHEDULER,
)  # fmt: skip
# What is taken where a host names its widgets otherwise.
FALLBACKS: dict[str, Any] = {
    PROMPT: "", NEGATIVE: "", CFG: 7.0, WIDTH: 512, HEIGHT: 512, STEPS: 8, SCHEDULER: "Automatic",
    SAMPLER: "", DISTILLED: None, HIRES: False, HIRES_STEPS: 0, DENOISE: 0.0,
    HIRES_CFG: None, HIRES_DISTILLED: None, HIRES_SAMPLER: "", HIRES_SCHEDULER: "",
    TABLE: AUTOMATIC, KEEP: False,
}  # fmt: skip

OF_IMAGE = (PROMPT, CFG, STEPS, SCHEDULER, SAMPLER, DISTILLED, DENOISE)  # img2img has these too

Widgets = dict[str, Any]
widgets: Widgets = {}  # by elem_id, anew with every UI
image_widgets: Widgets = {}  # those of img2img under the names that txt2img has for the same


def capture(component: Any, elem_id: str | None) -> None:
    """Called after every component that the host builds."""
    if elem_id in FALLBACKS:
        widgets[str(elem_id)] = component
    same = str(elem_id).replace("img2img_", "txt2img_", 1)
    if same != elem_id and same in OF_IMAGE:
        image_widgets[same] = component


def complete(wanted: Sequence[str] = CAPTURED, where: Widgets = widgets) -> bool:
    """Whether all that every host has is there."""
    return all(name in where for name in wanted)


def names(where: Widgets = widgets) -> list[str]:
    """The widgets that there are, in the order in which :func:`components` gives them."""
    return [name for name in FALLBACKS if name in where]


def components(where: Widgets = widgets) -> list[Any]:
    """The inputs of an event that wants to know what is set in txt2img."""
    return [where[name] for name in names(where)]


def settings(known: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """What is set in txt2img: what a request takes (:func:`of_request`), the sampling method, the
    options of the accordion, and ``hires``, what is different in the hires pass, or None where it
    is off.
    """
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
        "table": str(found[TABLE] or AUTOMATIC),
        "keep_schedule": bool(found[KEEP]),
        "hires": hires(found),
    }


def hires(found: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the hires pass that differ from the main one's, and its ``denoise``.

    No steps of its own means those of the main pass.
    """
    denoise = float(found[DENOISE] or 0)
    if not found[HIRES] or not denoise:
        return None
    own: dict[str, Any] = {"denoise": denoise, "steps": int(found[HIRES_STEPS] or found[STEPS])}
    for name, widget in (("cfg", HIRES_CFG), ("distilled_cfg_scale", HIRES_DISTILLED)):
        if found[widget] is not None:
            own[name] = float(found[widget])
    for name, widget in (("sampler", HIRES_SAMPLER), ("scheduler", HIRES_SCHEDULER)):
        if found[widget] and not str(found[widget]).startswith(SAME):
            own[name] = str(found[widget])
    return own


def of_image(known: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """What is set in img2img: :func:`settings`, and the ``denoise`` that says which part runs."""
    found = dict(zip(known, values, strict=False))
    return {**settings(known, values), "denoise": float(found[DENOISE] or 0)}


def of_request(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that :class:`~dode_webui.request.Request` has under the same names."""
    names = ("negative", "cfg", "width", "height", "scheduler", "distilled_cfg_scale")
    same = {name: settings[name] for name in names}
    return {**same, "steps": (settings["steps"],), "prompts": (settings["prompt"],)}
