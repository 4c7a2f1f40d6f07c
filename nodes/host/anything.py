"""A hash of what other packs put on a model: functions, their closures, objects, tensors.

Nothing is called and nothing is compared by address, so that equal things of two sessions hash
alike: code by its instructions and constants, values by value, tensors by some of their values,
objects by their class and attributes. What can only be named is hashed by its class's name.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ...dode_core.tables.identity import digest

SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
MAX_DEPTH, MAX_ITEMS, VALUES = 8, 20_000, 8
# What differs from session to session and changes no output.
NEUTRAL = ("UUID", "device", "Generator", "Random", "lock", "RLock", "Logger", "weakref", "tqdm")


def some_values(tensors: Iterable[Any], count: int = VALUES) -> list[bytes]:
    """A few values spread over each tensor, rounded to bfloat16; b"" of one that has none to read.

    Read with one transfer a device. Meta tensors, unknown quantised formats and what is no tensor
    have none.
    """
    parts = [_spread(tensor, count) for tensor in tensors]
    by_device: dict[torch.device, list[int]] = {}
    for i, part in enumerate(parts):
        if part is not None:
            by_device.setdefault(part.device, []).append(i)
    found = [b""] * len(parts)
    for which in by_device.values():
        own = [part for i in which if (part := parts[i]) is not None]
        raw = torch.cat(own).cpu().view(torch.int16).numpy().tobytes()
        at = 0
        for i, part in zip(which, own, strict=True):
            found[i] = raw[at : at + 2 * len(part)]
            at += 2 * len(part)
    return found


def _spread(value: Any, count: int) -> Tensor | None:
    try:
        while hasattr(value, "__tensor_flatten__") and type(value) is not Tensor:
            value = getattr(value, value.__tensor_flatten__()[0][0])  # a quantised wrapper's data
        if value.is_meta or not value.numel():
            return None
        with torch.no_grad():
            flat = torch.Tensor.reshape(value.detach().as_subclass(Tensor), (-1,))
            some = flat[:: max(1, flat.numel() // count)][:count]
            return some.to(torch.bfloat16)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # a format that only its own pack reads


class Walk:
    """Collects tokens of whatever it is shown. ``own``: objects that mean "this very model"."""

    def __init__(self, own: Iterable[Any] = ()) -> None:
        self.tokens: list[str | bytes] = []
        self.own = {id(each) for each in own}
        self.open: set[int] = set()  # being walked: something may hold itself
        self.left = MAX_ITEMS

    def hash(self) -> str:
        return digest(self.tokens)

    def add(self, value: Any, depth: int = 0) -> None:
        """The tokens of one value."""
        self.left -= 1
        name = _class_name(value)
        if self.left < 0 or depth > MAX_DEPTH or id(value) in self.open:
            self.tokens.append(name)
        elif id(value) in self.own:
            self.tokens.append("own")
        elif isinstance(value, SCALARS) and not isinstance(value, Enum):
            self.tokens.append(f"{type(value).__name__} {value!r}")
        elif not any(word in name for word in NEUTRAL):
            self.open.add(id(value))
            self.tokens.append(name)
            self._inside(value, depth + 1)
            self.open.discard(id(value))

    def _inside(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            self.tokens += [str(tuple(value.shape)), *some_values([value], 4 * VALUES)]
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                self.tokens.append(f"key {key}" if not callable(key) else _class_name(key))
                self.add(value[key], depth)
        elif isinstance(value, list | tuple):
            for each in value:
                self.add(each, depth)
        elif isinstance(value, set | frozenset):
            parts = [Walk() for _ in value]
            for part, each in zip(parts, value, strict=True):
                part.add(each, depth)
            self.tokens += sorted(part.hash() for part in parts)
        else:
            self._object(value, depth)

    def _object(self, value: Any, depth: int) -> None:
        if isinstance(value, Enum | type | types.ModuleType | types.BuiltinFunctionType):
            self.tokens.append(str(getattr(value, "__qualname__", getattr(value, "name", value))))
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                self.add(part, depth)
        elif isinstance(value, types.MethodType):
            self.add(value.__func__, depth)
            self.add(value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif isinstance(value, types.CodeType):
            self.tokens += [value.co_code, " ".join(value.co_names)]
            self.add(value.co_consts, depth)
        elif isinstance(value, torch.nn.Module):
            state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            self.tokens += [*state, *some_values(state.values())]
            self._attributes(value, depth, SCALARS)
        elif hasattr(value, "model") and hasattr(value, "patches"):  # another MODEL
            self.add(value.model, depth)
            self.add(value.patches, depth)
        else:
            self._attributes(value, depth)

    def _function(self, value: types.FunctionType, depth: int) -> None:
        self.tokens.append(value.__qualname__)
        self.add(value.__code__, depth)
        self.add(value.__defaults__, depth)
        self.add(value.__kwdefaults__, depth)
        for cell in value.__closure__ or ():
            try:
                self.add(cell.cell_contents, depth)
            except ValueError:  # not set yet
                self.tokens.append("empty")

    def _attributes(self, value: Any, depth: int, kinds: tuple[type, ...] = (object,)) -> None:
        try:
            known = dict(vars(value))
        except TypeError:
            known = {name: getattr(value, name, None) for name in getattr(value, "__slots__", ())}
        for name in sorted(known, key=str):
            if isinstance(known[name], kinds):
                self.tokens.append(f"attribute {name}")
                self.add(known[name], depth)


def _class_name(value: Any) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def name_of(value: Any) -> str:
    """What people would call a function or an object: the node it comes from, or its class."""
    while isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, types.MethodType):
        value = value.__self__ if not isinstance(value.__self__, type) else value.__func__
    if isinstance(value, types.FunctionType):
        if value.__module__ == "comfy.model_patcher":  # which wraps what a node gave it
            inner = [cell.cell_contents for cell in value.__closure__ or ()]
            inner = [each for each in inner if callable(each)]
            return name_of(inner[0]) if inner else value.__name__
        return value.__qualname__.split(".")[0].replace("<lambda>", "lambda")
    return type(value).__qualname__.split(".")[0]
