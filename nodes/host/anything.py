"""A hash of what other packs put on a model: functions, their closures, objects, tensors.

Nothing is compared by address, so that equal things of two sessions hash alike: code by its
instructions and constants, values by value, tensors by some of their values, objects by their class
and attributes, but for what they change by themselves (:mod:`.state`). What can only be named is
hashed by its class's name.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from ...dode_core.tables.identity import digest
from .state import State

SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
MAX_DEPTH, MAX_ITEMS, VALUES = 40, 300_000, 8
EXACT = 8  # values of a tensor that is a setting rather than a weight
HOSTS = "training$|comfy_"  # attributes that the host sets on every layer when it loads a model
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
    """Collects tokens of whatever it is shown.

    ``own``: parts of this very model by their ids, and what to call them; their marks are others.
    ``state``: what is left out. ``cut`` says that not everything could be looked at.
    """

    def __init__(self, own: Mapping[int, str] | None = None, state: State | None = None) -> None:
        self.tokens: list[str | bytes] = []
        self.own = own or {}
        self.state = state or State(())
        self.known: dict[int, tuple[Any, str]] = {}  # what was walked, kept alive, and its hash
        self.open: set[int] = set()  # being walked: something may hold itself
        self.left = MAX_ITEMS
        self.cut = False

    def hash(self) -> str:
        return digest(self.tokens)

    def add(self, value: Any, depth: int = 0) -> None:
        """The tokens of one value."""
        name = _class_name(value)
        if id(value) in self.own:
            self.tokens.append(self.own[id(value)])
        elif isinstance(value, SCALARS) and not isinstance(value, Enum):
            self.tokens.append(f"{type(value).__name__} {value!r}")
        elif id(value) in self.known:
            self.tokens.append(self.known[id(value)][1])
        elif self.left <= 0 or depth > MAX_DEPTH or id(value) in self.open:
            self.cut |= id(value) not in self.open
            self.tokens.append(name)
        elif not any(word in name for word in NEUTRAL):
            self._once(name, value, depth + 1)

    def _once(self, name: str, value: Any, depth: int) -> None:
        self.left -= 1
        self.open.add(id(value))
        outer = self.tokens
        self.tokens = list[str | bytes]([name])
        self._inside(value, depth)
        found = self.hash()
        self.tokens = outer
        outer.append(found)
        self.open.discard(id(value))
        self.known[id(value)] = value, found

    def _inside(self, value: Any, depth: int) -> None:
        if isinstance(value, Tensor):
            self.tokens += [str(tuple(value.shape)), *_numbers(value)]
        elif isinstance(value, Mapping):
            for key in sorted(value, key=str):
                self.tokens.append(f"key {key}" if not callable(key) else _class_name(key))
                self.add(value[key], depth)
        elif isinstance(value, list | tuple):
            for each in value:
                self.add(each, depth)
        elif isinstance(value, set | frozenset):
            parts = [Walk(self.own, self.state) for _ in value]
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
            self._attributes(value, depth, SCALARS, HOSTS)
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
                content = cell.cell_contents
            except ValueError:  # not set yet
                content = None
            if id(cell) in self.state.cells:
                self.tokens.append("state")
            else:
                self.add(content, depth)

    def _attributes(
        self, value: Any, depth: int, kinds: tuple[type, ...] = (object,), but: str = ""
    ) -> None:
        known = dict(_attributes(value))
        known = {name: each for name, each in known.items() if not re.match(but or "$", name)}
        if not known and not hasattr(value, "__dict__"):
            self.add(_reduced(value), depth)
        for name in sorted(known.keys() - self.state.attributes(value), key=str):
            if isinstance(known[name], kinds):
                self.tokens.append(f"attribute {name}")
                self.add(known[name], depth)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """An object's own attributes, those in slots too."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__dict__", "__weakref__"):
                yield name, getattr(value, name)


def _reduced(value: Any) -> Any:
    """What an object of a built-in kind is made of (numpy's arrays, ranges, fractions), if known.

    Classes of other packs have attributes: their own way to reduce themselves is not called.
    """
    try:
        parts = value.__reduce_ex__(2)
        return [list(each) if isinstance(each, Iterator) else each for each in parts]
    except Exception:  # locks and streams have none
        return None


def _numbers(value: Tensor) -> list[bytes]:
    """Of a tensor with few values, as settings have, all of them; else some, as of weights."""
    if 0 < value.numel() <= EXACT and value.device.type != "meta" and not value.is_quantized:
        try:
            flat = value.detach().as_subclass(Tensor).reshape(-1).to(torch.float32)
            return [flat.cpu().numpy().tobytes()]
        except (NotImplementedError, RuntimeError, TypeError):
            pass  # a format that only its own pack reads
    return some_values([value], 4 * VALUES)


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
