"""Which model is this? Its parametrisation, its checkpoint file, and fingerprints of both.

The checkpoint's path comes from, in order: the MODEL itself (ComfyUI of 2026), the running
workflow, followed from the sampling node back to the one loader its MODEL comes from, or nothing:
then tables are found by the fingerprint of the weights alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import folder_paths
import torch
from comfy.model_sampling import CONST
from comfy.samplers import CFGGuider

from ...dode_core.tables.identity import Identity, file_fingerprint

Prompt = Mapping[str, Mapping[str, Any]]

# A loader's widget and the folders that its file may be in.
LOADER_WIDGETS = {
    "ckpt_name": ("checkpoints",),
    "unet_name": ("diffusion_models",),
    "model_name": ("diffusion_models", "checkpoints"),
}
MODEL_TYPES = ("MODEL", "GUIDER", "*")  # "*": switches and reroutes that pass anything on
SAMPLED_TENSORS, SAMPLED_VALUES = 16, 32

_weights: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def parametrization(patcher: Any) -> str:
    """``flow`` for rectified flow (ComfyUI's CONST), else ``ve``: its x is x0 + sigma eps."""
    return "flow" if isinstance(patcher.get_model_object("model_sampling"), CONST) else "ve"


def guidance(guider: Any) -> float | None:
    """A guider's cfg; None where it has none, or where another number decides as well."""
    cfg = getattr(guider, "cfg", None)
    ours = getattr(type(guider), "set_cfg", CFGGuider.set_cfg) is CFGGuider.set_cfg
    return float(cfg) if ours and isinstance(cfg, int | float) else None


def identify(patcher: Any, prompt: Prompt | None = None, node_id: str | None = None) -> Identity:
    """The identity of a MODEL that is used by node ``node_id`` of a workflow."""
    path = path_on_model(patcher) or path_in_prompt(prompt or {}, node_id)
    name = path.name if path else getattr(patcher.model, "dode_name", type(patcher.model).__name__)
    parts = {
        "weights": weights_fingerprint(patcher),
        "file": file_fingerprint(path) if path else "",
        "patches": patches_fingerprint(patcher),
    }
    fingerprint = " ".join(f"{key}:{value}" for key, value in parts.items() if value)
    return Identity(path, "".join(c if c.isprintable() else "_" for c in name), fingerprint)


def path_on_model(patcher: Any) -> Path | None:
    """The checkpoint that a loader of 2026 noted on its MODEL."""
    try:
        path = patcher.cached_patcher_init[1][0]
    except (AttributeError, IndexError, KeyError, TypeError):
        return None
    return Path(path) if isinstance(path, str | Path) and Path(path).is_file() else None


def path_in_prompt(prompt: Prompt, node_id: str | None) -> Path | None:
    """The one checkpoint file that a node's MODEL comes from; None for several (a merge)."""
    found, seen, todo = set(), set(), [node_id]
    while todo:
        node = prompt.get(str(todo.pop()), {})
        if id(node) in seen:
            continue
        seen.add(id(node))
        inputs = node.get("inputs", {})
        path = loaded_file(inputs)
        if path is not None:
            found.add(path)
            continue
        links = [value for value in inputs.values() if isinstance(value, list) and len(value) == 2]
        todo += [
            source for source, slot in links if output_type(prompt, source, slot) in MODEL_TYPES
        ]
    return found.pop() if len(found) == 1 else None


def loaded_file(inputs: Mapping[str, Any]) -> Path | None:
    """The file that a node with these inputs loads a model from."""
    for widget, folders in LOADER_WIDGETS.items():
        for folder in folders:
            name = inputs.get(widget)
            path = folder_paths.get_full_path(folder, name) if isinstance(name, str) else None
            if path is not None:
                return Path(path)
    return None


def output_type(prompt: Prompt, source: Any, slot: Any) -> str:
    """What type a link carries."""
    import nodes  # ComfyUI's

    classes: Any = vars(nodes)["NODE_CLASS_MAPPINGS"]
    node = classes.get(prompt.get(str(source), {}).get("class_type"))
    try:
        return str(node.RETURN_TYPES[slot])
    except (AttributeError, IndexError, TypeError):
        return ""


def running_prompt() -> tuple[Prompt, str | None]:
    """The workflow that is being executed and the node whose turn it is, as far as known.

    A sampler picked in a menu is handed neither.
    """
    try:
        from comfy_execution.utils import get_executing_context
        from server import PromptServer

        context = get_executing_context()
        running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        for item in running:
            if item[1] == context.prompt_id:
                return item[2], context.node_id
    except (ImportError, AttributeError, IndexError, TypeError):
        pass  # no server, or a ComfyUI that keeps its queue elsewhere
    return {}, None


def weights_fingerprint(patcher: Any) -> str:
    """Hash of class, latent format, every weight's name and shape, and a few values of some."""
    model = patcher.model
    if model not in _weights:
        _weights[model] = _hash_weights(patcher)
    return _weights[model]


def _hash_weights(patcher: Any) -> str:
    model = patcher.model
    state = model.diffusion_model.state_dict()
    head = [
        type(model).__name__,
        type(model.latent_format).__name__,
        getattr(getattr(model, "model_type", None), "name", ""),
        *(f"{key} {tuple(value.shape)}" for key, value in sorted(state.items())),
    ]
    digest = hashlib.sha256("\n".join(head).encode())
    keys = sorted(state)
    for key in keys[:: max(1, len(keys) // SAMPLED_TENSORS)]:
        # A loaded LoRA is added to the weights in place; the originals are kept aside.
        kept = patcher.backup.get(f"diffusion_model.{key}")
        digest.update(_some_values(state[key] if kept is None else kept.weight))
    return digest.hexdigest()[:16]


def _some_values(weight: torch.Tensor) -> bytes:
    """A few values spread over a tensor, rounded to bfloat16; none of one that cannot be read."""
    try:
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // SAMPLED_VALUES)][:SAMPLED_VALUES]
        return some.to("cpu", torch.bfloat16).view(torch.uint8).numpy().tobytes()
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return b""  # quantised formats of other packs


def patches_fingerprint(patcher: Any) -> str:
    """Hash of what LoRAs change and how strongly; empty without any."""
    patches = getattr(patcher, "patches", {})
    lines = [
        f"{key} {[(entry[0], entry[2]) for entry in entries]}"
        for key, entries in sorted(patches.items(), key=lambda item: str(item[0]))
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] if lines else ""
