"""Marks of what wraps a MODEL's weights: options, wrappers, replaced parts, guider, sampling."""

from __future__ import annotations

import copy
import logging
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from comfy.model_sampling import CONST
from comfy.samplers import CFGGuider

from ...dode_core.tables.identity import digest, labelled
from ...dode_core.tables.likeness import PARTLY
from .anything import Walk, name_of
from .hooks import prompt_hooks
from .state import State
from .weights import network, own_parts

NONE, PLAIN_GUIDER = "none", "CFG"
# Keys that change no output: ours, the host's own notes of a run, torch.compile, and what only
# masks are used with (DifferentialDiffusion).
NEUTRAL = {"dode", "sample_sigmas", "torch.compile", "torch_compile_kwargs", "to_load_options"}
NEUTRAL |= {"denoise_mask_function"}
OWN_MARK = ("model_sampling",)  # replaced parts that have a mark of their own
HOST_STATE = {"model_patcher", "model_options", "original_conds", "conds", "inner_model"}
HOST_STATE |= {"loaded_models"}
PLUMBING = ("predict_noise", "sample", "outer_sample", "inner_sample", "__call__")
PREDICTIONS = {  # (of the input, of the output, the input's scale) at sigma 1/2, sigma_data 1
    "eps": (1.0, -0.5, 0.8944),
    "v": (0.8, -0.4472, 0.8944),
    "edm": (0.8, 0.4472, 0.8944),
}
PROBE = 0.5
# What skips steps by what earlier ones gave, by the names that packs gave it.
STEP_CACHE = re.compile(r"\b(?:Easy|Lazy|Tea|Mag|FB|FirstBlock|Taylor|Di|DB)Cache", re.IGNORECASE)


def options_mark(patcher: Any, guider: Any = None) -> str:
    """Everything that is put around the weights, hashed and named; "none" for nothing.

    ``guider``: whose prompts may bring hooks, LoRAs for their part of a run.
    """
    found = _found(patcher) + prompt_hooks(guider)
    if not found:
        return NONE
    own = own_parts(patcher)
    walk = Walk(own, State((value for _, value in found), own))
    for name, value in found:
        walk.tokens.append(name)
        walk.add(value)
    return _labelled(_named(found), walk)


def step_cache(patcher: Any) -> str:
    """The name of a step cache that is on a MODEL; "" where none that is known by name is."""
    names = " ".join(_named(_found(patcher)))
    found = STEP_CACHE.search(names)
    return found[0] if found else ""


def _found(patcher: Any) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in _wrapping(patcher) if _is_something(value)]


def _named(found: list[tuple[str, Any]]) -> list[str]:
    names: list[str] = []
    for name, value in found:
        group, key = name.split("/", 1)
        if group == "prompt":
            names.append(key)
        elif group in ("wrappers", "callbacks") or key == "injections":
            names += [own for own in value if isinstance(own, str)] or _names(key, value)
        else:
            names += _names(key, value)
    known = {name.removesuffix("Holder").lower(): name for name in sorted(names, reverse=True)}
    return sorted(name.removesuffix("Holder") for name in known.values())


def _labelled(names: list[str], walk: Walk) -> str:
    """A mark of what was walked; that not all of it was is its first word."""
    return labelled([*([PARTLY] if walk.cut else []), *names], walk.hash())


def _wrapping(patcher: Any) -> Iterator[tuple[str, Any]]:
    """(path, value) of every entry."""
    options = getattr(patcher, "model_options", {})
    inner = options.get("transformer_options", {})
    groups = {"": options, "transformer": inner, "wrappers": getattr(patcher, "wrappers", {})}
    groups |= {"callbacks": getattr(patcher, "callbacks", {})}
    groups |= {
        f"{name}/{key}": value
        for name in ("wrappers", "callbacks")
        for key, value in inner.get(name, {}).items()
    }
    for name, entries in groups.items():
        for key in sorted(entries, key=str):
            nested = key == "transformer_options" or (name == "transformer" and key in groups)
            if key not in NEUTRAL and not nested:
                yield f"{name}/{key}", _without_neutral(entries[key])
    for key, value in sorted(getattr(patcher, "object_patches", {}).items()):
        same = getattr(value, "_orig_mod", value) is network(patcher.model)
        if key not in OWN_MARK and not same:
            yield f"object/{key}", value
    for name in ("weight_wrapper_patches", "injections", "additional_models"):
        yield f"model/{name}", getattr(patcher, name, None)


def _without_neutral(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in value.items() if key not in NEUTRAL and _is_something(each)}


def _is_something(value: Any) -> bool:
    return not (value is None or (isinstance(value, list | tuple | dict | set) and not value))


def _names(key: str, value: Any) -> list[str]:
    """What a note can call an entry: the nodes its functions are from, else its key."""
    if isinstance(value, dict):
        return [n for k, v in value.items() for n in _names(k if isinstance(k, str) else key, v)]
    if isinstance(value, list | tuple):
        return [name for each in value for name in _names(key, each)]
    if not isinstance(value, str | int | float | bool | torch.Tensor | torch.dtype):
        return [name_of(value)]
    return [] if key == "disable_cfg1_optimization" else [key]


def guider_mark(guider: Any) -> str:
    """The class that mixes the outputs and its scales; "CFG" for the host's plain guidance."""
    kind = type(guider)
    if guider is None or all(
        getattr(kind, name, None) is getattr(CFGGuider, name) for name in PLUMBING
    ):
        return PLAIN_GUIDER
    plumbing = [getattr(kind, name, None) for name in PLUMBING]
    state = State([*plumbing, guider])
    changing = HOST_STATE | state.attributes(guider)
    known = {k: v for k, v in vars(guider).items() if k not in changing and _is_something(v)}
    if getattr(kind, "set_cfg", None) is CFGGuider.set_cfg:
        known.pop("cfg", None)  # a table has it of its own
    own = {id(guider): "own", id(getattr(guider, "model_patcher", None)): "own"}
    walk = Walk(own, state)
    for each in plumbing:
        walk.add(each)
    walk.add(known)
    return _labelled([kind.__name__.removesuffix("Guider").removeprefix("Guider_")], walk)


def distilled_cfg(guider: Any) -> str:
    """The guidance that FluxGuidance puts on a prompt, where the positive has just one."""
    conds = getattr(guider, "original_conds", None) or {}
    found = {each.get("guidance") for each in conds.get("positive") or () if isinstance(each, dict)}
    value = found.pop() if len(found) == 1 else None
    return f"{value:g}" if isinstance(value, int | float) else ""


def sampling_marks(patcher: Any) -> dict[str, str]:
    """``prediction``, ``range`` and ``sampling`` of a MODEL, read off what its sampling does."""
    sampling = patcher.get_model_object("model_sampling")
    try:
        probe = copy.deepcopy(sampling).cpu()  # the same rounding wherever the model is
    except Exception:
        probe = sampling
    low, high = float(probe.sigma_min), float(probe.sigma_max)
    shift = getattr(probe, "shift", None)
    words = [f"shift={shift:.4g}"] if isinstance(shift, int | float) else []
    words += ["zsnr"] if getattr(probe, "zsnr", False) else []
    return {
        "prediction": _prediction(probe),
        "range": f"{low:.3g}-{high:.4g}",
        "sampling": labelled(words, digest(_behaviour(probe, low, high))),
    }


def _prediction(sampling: Any) -> str:
    """Which of the known meanings the network's output has, else the name of what says it."""
    if isinstance(sampling, CONST):
        return "flow"
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    data = float(getattr(sampling, "sigma_data", 1.0))
    at = torch.tensor([PROBE * data])
    try:
        kept = float(sampling.calculate_denoised(at, zero, one))
        output = float(sampling.calculate_denoised(at, one, zero))
        found = kept, output / data, float(sampling.calculate_input(at, one)) * data
        if math.isclose(output, 1) and kept == 0:
            return "x0"
        for name, known in PREDICTIONS.items():
            if all(abs(a - b) < 1e-3 for a, b in zip(found, known, strict=True)):
                return name
    except Exception:  # another pack's, with other arguments
        logging.debug("D-ODE: %s answers no probe.", type(sampling).__name__)
    owners = [kind for kind in type(sampling).__mro__ if "calculate_denoised" in vars(kind)]
    return owners[0].__name__.lower() if owners else type(sampling).__name__.lower()


def _behaviour(sampling: Any, low: float, high: float) -> list[str]:
    """What the sampling answers at some places, to 3 digits, and its scalar settings."""
    found = [
        f"{name} {value:.6g}"
        for name, value in sorted(vars(sampling).items())
        if isinstance(value, int | float) and not name.startswith("_") and name != "training"
    ]
    at = [low + (high - low) * part**3 for part in (0.05, 0.3, 0.6, 0.9)]
    image = torch.ones(1, 1, 1, 1)
    probes = {
        "timestep": lambda: sampling.timestep(torch.tensor(at)).tolist(),
        "percent": lambda: [float(sampling.percent_to_sigma(p)) for p in (0.1, 0.35, 0.6, 0.9)],
        "input": lambda: [float(sampling.calculate_input(torch.tensor([s]), image)) for s in at],
        "denoised": lambda: [
            float(sampling.calculate_denoised(torch.tensor([s]), image * a, image * b))
            for s in at
            for a, b in ((1, 0), (0, 1))
        ],
        "noise": lambda: [
            float(sampling.noise_scaling(torch.tensor([s]), image * a, image * b))
            for s in at
            for a, b in ((1, 0), (0, 1))
        ],
    }
    for name, ask in probes.items():
        try:
            found.append(f"{name} {[f'{value:.3g}' for value in ask()]}")
        except Exception as error:  # another pack's, with other arguments
            found.append(f"{name} {type(error).__name__}")
    return found
