"""Marks of a MODEL's weights and of what is added to them, by value."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ...dode_core.tables.identity import digest, labelled
from .anything import Walk, some_values

SAMPLED_TENSORS, SAMPLED_VALUES = 16, 32
PREFIX, COMPILED = "diffusion_model.", "_orig_mod."
REMEMBERED = 32  # sets of patches
_patches: dict[tuple[Any, int], str] = {}
_known: WeakKeyDictionary[Any, tuple[str, str]] = WeakKeyDictionary()


def weights_marks(patcher: Any) -> tuple[str, str]:
    """(``weights``, ``values``) of a MODEL; "" for a mark that read no value.

    ``weights`` is what every version has written. ``values`` samples every parameter and buffer:
    two models that differ in one layer differ there. Remembered for each model in memory.
    """
    model = patcher.model
    if model not in _known:
        found = _weights(patcher), _values(patcher)
        if not any(found):
            return found  # perhaps not loaded yet
        _known[model] = found
    return _known[model]


def _head(model: Any) -> list[str]:
    kind = getattr(getattr(model, "model_type", None), "name", "")
    return [type(model).__name__, type(model.latent_format).__name__, kind]


def network(model: Any) -> Any:
    """A model's network, without what torch.compile puts around it."""
    return getattr(model.diffusion_model, "_orig_mod", model.diffusion_model)


def _weights(patcher: Any) -> str:
    """Hash of class, latent format, every weight's name and shape, and a few values of some."""
    state = _tensors(patcher, _saved)
    head = [*_head(patcher.model), *(f"{key} {tuple(state[key].shape)}" for key in sorted(state))]
    whole = hashlib.sha256("\n".join(head).encode())
    keys = sorted(state)
    some = keys[:: max(1, len(keys) // SAMPLED_TENSORS)]
    read = some_values([_original(patcher, key, state[key]) for key in some], SAMPLED_VALUES)
    for values in read:
        whole.update(values)
    return whole.hexdigest()[:16] if any(read) else ""


def _values(patcher: Any) -> str:
    """Hash of a few values of every parameter and buffer that can be read."""
    state = _tensors(patcher, _held)
    keys = sorted(state)
    read = some_values(_original(patcher, key, state[key]) for key in keys)
    found = [(key, values) for key, values in zip(keys, read, strict=True) if values]
    lines = [(key.replace(COMPILED, ""), values) for key, values in found]
    return (
        digest([*_head(patcher.model), *(part for line in lines for part in line)]) if lines else ""
    )


def _tensors(patcher: Any, read: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What ``read`` finds in the network, whatever object patches are in place at the moment."""
    state = read(network(patcher.model))
    for key, kept in _replaced(patcher):
        state = {
            name: value for name, value in state.items() if not f"{name}.".startswith(f"{key}.")
        }
        if isinstance(kept, torch.nn.Module):
            state |= {f"{key}.{name}": value for name, value in read(kept).items()}
        elif isinstance(kept, torch.Tensor):
            state[key] = kept
    return state


def _saved(module: Any) -> dict[str, Any]:
    state = module.state_dict()
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _held(module: Any) -> dict[str, Any]:
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}


def _replaced(patcher: Any) -> list[tuple[str, Any]]:
    """(name in the network, what belongs there) of the parts that object patches stand in for."""
    kept = getattr(patcher, "object_patches_backup", {})
    return [
        (key.removeprefix(PREFIX), value) for key, value in kept.items() if key.startswith(PREFIX)
    ]


def own_parts(patcher: Any) -> dict[int, str]:
    """The ids of a MODEL's own parts, layer by layer, and what to call them; patches are none."""
    net = network(patcher.model)
    own = {id(each): f"own {name}" for name, each in net.named_modules()}
    for key, value in _replaced(patcher):
        own[id(value)] = f"own {key}"
    for value in getattr(patcher, "object_patches", {}).values():
        own.pop(id(value), None)
    return own | {id(patcher): "own", id(patcher.model): "own", id(net): "own"}


def _original(patcher: Any, key: str, value: Any) -> Any:
    """A weight without LoRAs: a loaded one is added in place, the original is kept aside."""
    kept = getattr(patcher, "backup", {}).get(PREFIX + key)
    if kept is not None:
        return kept.weight
    hooked = getattr(patcher, "hook_backup", {}).get(PREFIX + key)
    return value if hooked is None else hooked[0]


def patches_mark(patcher: Any) -> str:
    """What LoRAs and merges add, by value: some values of every patch; "" without any.

    A merge brings another model's weights ("ModelMergeSimple" and its kin): a patch of several
    parts, or one that scales the model's own weight. Remembered by the MODEL's own mark for its
    patches, which every change of them renews.
    """
    known = getattr(patcher, "patches_uuid", None), len(getattr(patcher, "patches", {}))
    if known[0] is not None and known in _patches:
        return _patches[known]
    found = _patches_mark(patcher)
    if known[0] is not None:
        while len(_patches) >= REMEMBERED:
            _patches.pop(next(iter(_patches)))
        _patches[known] = found
    return found


def _patches_mark(patcher: Any) -> str:
    walk = Walk({id(patcher.model): "own"})
    words: set[str] = set()
    for key, entries in sorted(
        getattr(patcher, "patches", {}).items(), key=lambda pair: str(pair[0])
    ):
        for strength, value, own_strength, *rest in entries:
            if strength == 0 and own_strength == 1:
                continue  # adds nothing
            merge = isinstance(value, list) or own_strength != 1
            words.add("merge" if merge else "lora")
            walk.tokens += [str(key), repr(float(strength)), repr(float(own_strength))]
            walk.left += 100  # every patch is looked at, however many there are
            _patch(walk, value)
            for each in rest:
                walk.add(each)
    return labelled(sorted(words), walk.hash()) if words else ""


def _patch(walk: Walk, value: Any) -> None:
    """A patch's values. Of a merge the other model's weight: what converts it is the host's."""
    if isinstance(value, list) and value:
        (weight, *_), *more = value
        walk.add(weight)
        walk.add(more)
    else:
        walk.add(value)
