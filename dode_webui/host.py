"""What is read from the host, tested for by feature: forks differ, and versions say little."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from dode_core.tables.identity import Identity, file_fingerprint
from dode_core.tables.library import PRESETS, Library

_clicked: ContextVar[str | None] = ContextVar("clicked", default=None)  # a title in the menu
# What engines that take a shift or a distilled cfg start from, as the hosts' own presets say.
DISTILLED_CFG = {"ZImage": 9.0, "Wan": 5.0, "Lumina2": 6.0, "Anima": 3.0, "Ernie": 3.0}
DEFAULT_DISTILLED_CFG = 3.5
LORA = re.compile(r"<(?:lora|lyco):([^:>]+)((?::[^:>]*)*)>")


def optional(name: str) -> ModuleType | None:
    """A module of the host, None where this host has none of that name."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        return None


def option(name: str, default: Any) -> Any:
    """A setting of the host or of ours, its default where it is not known (yet)."""
    from modules import shared

    return getattr(shared.opts, "data", {}).get(name, default)


def own_folder() -> Path:
    """The folder for tables that cannot lie beside their checkpoint; ``--dode-dir`` names it."""
    from modules import paths, shared

    named = getattr(shared.cmd_opts, "dode_dir", None)
    return Path(named).expanduser().absolute() if named else Path(paths.models_path) / "dode"


def library() -> Library:
    """The folders that hold table files."""
    from modules import paths, sd_models, shared

    beside = [
        getattr(sd_models, "model_path", os.path.join(paths.models_path, "Stable-diffusion")),
        getattr(shared.cmd_opts, "ckpt_dir", None),
        *(getattr(shared.cmd_opts, "ckpt_dirs", None) or []),  # Neo has a list
    ]
    own = own_folder()
    folders = dict.fromkeys(os.path.abspath(path) for path in beside if path)
    roots = [("checkpoints", folder) for folder in folders]
    roots += [("dode", os.fspath(own)), ("presets", os.fspath(PRESETS))]
    return Library(tuple(roots), own, os.fspath(own), "press the refresh button")


def checkpoint(upcoming: bool = False) -> Path | None:
    """The file of the loaded checkpoint, or of the one that the next run will load.

    Forge loads what was picked in its menu only when it is needed.
    """
    infos = [getattr(loaded_model(), "sd_checkpoint_info", None), _picked()]
    for info in reversed(infos) if upcoming else infos:
        filename = getattr(info, "filename", None)
        if filename:
            return Path(filename)
    return None


def _picked() -> Any:
    """The checkpoint chosen in the menu, as far as the host says."""
    from modules import shared

    models = optional("modules.sd_models")
    clicked = getattr(models, "checkpoint_aliases", {}).get(_clicked.get())
    if clicked is not None:
        return clicked
    data = getattr(models, "model_data", None)
    info = (getattr(data, "forge_loading_parameters", None) or {}).get("checkpoint_info")
    if info is not None:
        return info
    chosen = getattr(shared.opts, "sd_model_checkpoint", None)
    return getattr(models, "checkpoint_aliases", {}).get(chosen)


@contextlib.contextmanager
def clicked_on(title: Any) -> Iterator[None]:
    """The checkpoint that the menu on the page shows is the upcoming one meanwhile: the host's own
    handler of the same click may not have noted it yet.
    """
    token = _clicked.set(title if isinstance(title, str) else None)
    try:
        yield
    finally:
        _clicked.reset(token)


def is_switching() -> bool:
    """Whether the model in memory is another than the one that the next run will load."""
    info = getattr(loaded_model(), "sd_checkpoint_info", None)
    return info is not None and checkpoint() != checkpoint(upcoming=True)


def loaded_model() -> Any:
    """The model in memory; asking ``shared.sd_model`` would load one."""
    models = optional("modules.sd_models")
    return getattr(getattr(models, "model_data", None), "sd_model", None)


def load_model() -> None:
    """Have the host load what was picked in its menu, where it waits until it is needed."""
    load = getattr(optional("modules.sd_models"), "forge_model_reload", None)
    if load is not None:
        load()


def default_distilled_cfg() -> float:
    """The shift or distilled cfg that the loaded model runs with when nobody says."""
    return DISTILLED_CFG.get(type(loaded_model()).__name__, DEFAULT_DISTILLED_CFG)


def distilled_cfg(p: Any) -> float | None:
    """The shift or distilled cfg of a run; the hires pass has its own."""
    name = "hr_distilled_cfg" if getattr(p, "is_hr_pass", False) else "distilled_cfg_scale"
    value = getattr(p, name, None)
    return float(value) if isinstance(value, int | float) else None


def distilled_mark(value: float | None, upcoming: bool = False) -> dict[str, str]:
    """The mark of a model that takes a shift or a distilled cfg; none for others, and none for an
    upcoming one, which nobody knows before it is loaded.
    """
    model = loaded_model()
    if value is None or model is None or (upcoming and is_switching()):
        return {}
    if getattr(model, "use_shift", False) is True:
        return {"shift": f"{value:g}"}
    if getattr(model, "use_distilled_cfg_scale", False) is True:
        return {"distilled_cfg": f"{value:g}"}
    return {}


def cfgs(cfg: float, distilled: float | None, upcoming: bool = False) -> str:
    """ "cfg 1, distilled cfg 3.5": all of them that the loaded model takes, for people."""
    marks = distilled_mark(distilled, upcoming).items()
    return ", ".join(
        [f"cfg {cfg:g}", *(f"{name.replace('_', ' ')} {value}" for name, value in marks)]
    )


def identity(
    prompt: str = "", upcoming: bool = False, distilled: float | None = None, p: Any = None
) -> Identity:
    """The loaded (or upcoming) checkpoint, the LoRAs that a prompt names, the distilled cfg, and
    where guidance is left out: by the settings, or by those of the run ``p``.
    """
    path = checkpoint(upcoming)
    parts = {"file": file_fingerprint(path) if path else "", "patches": lora_mark(prompt)}
    parts |= distilled_mark(distilled, upcoming) | {"unguided": unguided_mark(p)}
    fingerprint = " ".join(f"{key}:{value}" for key, value in parts.items() if value)
    name = path.name if path else "unknown"
    return Identity(path, "".join(c if c.isprintable() else "_" for c in name), fingerprint)


def unguided_mark(p: Any = None) -> str:
    """Where the host leaves guidance out ("NGMS=4+all_steps"); empty where it does nowhere.

    Without guidance there the denoiser is another one, whose images differ.
    """
    words = []
    if (early := _number(option("skip_early_cond", 0))) > 0:
        words.append(f"Skip_Early_CFG={early:g}")
    own = getattr(p, "s_min_uncond", None)
    if (below := _number(option("s_min_uncond", 0) if own is None else own)) > 0:
        words.append(f"NGMS={below:g}")
        words += ["all_steps"] if option("s_min_uncond_all", False) else []
    return "+".join(words)


def unguided_by_step(p: Any = None) -> bool:
    """Whether the number of a step, not its noise level, decides where guidance is left out."""
    words = unguided_mark(p)
    return "Skip_Early" in words or ("NGMS" in words and "all_steps" not in words)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def lora_mark(prompt: str) -> str:
    """Hash of the LoRAs in a prompt and their strengths; empty without any."""
    lines = sorted(f"{name}{strengths}" for name, strengths in LORA.findall(prompt))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else ""


def first_prompt(p: Any) -> str:
    """The prompt of a run as it was written, LoRAs included."""
    prompts = getattr(p, "all_prompts", None) or getattr(p, "prompt", "")
    return str(prompts[0]) if isinstance(prompts, list) and prompts else str(prompts)


def guidance(p: Any, extra_args: dict[str, Any]) -> float | None:
    """The cfg that the denoiser will use; Forge and reForge have another one for the hires pass."""
    if getattr(p, "is_hr_pass", False) and hasattr(p, "hr_cfg"):
        return float(p.hr_cfg)
    cfg = extra_args.get("cond_scale")
    return float(cfg) if isinstance(cfg, int | float) else None


def schedule_names() -> list[str]:
    """Labels of the schedule dropdown; empty where samplers carry the schedule in their name."""
    schedulers = optional("modules.sd_schedulers")
    return [each.label for each in getattr(schedulers, "schedulers", [])]


def interrupted() -> bool:
    """Whether the user pressed Interrupt or Skip."""
    from modules import shared

    return bool(shared.state.interrupted or shared.state.skipped)
