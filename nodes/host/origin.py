"""Which file does a MODEL come from?

From, in order: the MODEL itself (ComfyUI of 2026), the running workflow, followed from the sampling
node back to the one loader its MODEL comes from, or nothing: then tables are found by the marks of
the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import folder_paths

Prompt = Mapping[str, Mapping[str, Any]]

# A loader's widget and the folders that its file may be in.
LOADER_WIDGETS = {
    "ckpt_name": ("checkpoints",),
    "unet_name": ("diffusion_models",),
    "model_name": ("diffusion_models", "checkpoints"),
}
MODEL_TYPES = ("MODEL", "GUIDER", "*")  # "*": switches and reroutes that pass anything on


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
    nodes: Any = import_module("nodes")  # ComfyUI's
    node = nodes.NODE_CLASS_MAPPINGS.get(prompt.get(str(source), {}).get("class_type"))
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
