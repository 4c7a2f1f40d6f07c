"""What the code on a model changes while it runs: its state, which is no setting.

APG keeps a running average in a closure, SAG its attention scores, an injected LoRA the forward
that it took the place of. A mark is to be the same before, during and after a run, so these are
left out: variables that a function rebinds or fills by itself, and attributes that methods which
are called in a run set or fill on their own object. Code is read, never run.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

MAX_DEPTH = 40
FILLING = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop"}
FILLING |= {"popitem", "popleft", "remove", "setdefault", "update"}
# Methods of everybody: that one of them is called says nothing about a class that has one too.
COMMON = {name for kind in (dict, list, set, str, torch.Tensor) for name in dir(kind)}
LEAVES = (torch.Tensor, torch.nn.Module, type, types.ModuleType, types.BuiltinFunctionType)
LEAVES += (str, bytes, int, float, complex, type(None))


class State:
    """The closure cells and attributes that the functions in some values change by themselves."""

    def __init__(self, values: Iterable[Any], own: Iterable[int] = ()) -> None:
        self.cells: set[int] = set()
        self._of: dict[int, set[str]] = {}
        self._of_kind: dict[type, set[str]] = {}
        self._seen = set(own)
        self._functions: list[types.FunctionType] = []
        self._kinds: set[type] = set()
        for value in values:
            self._gather(value, 0)
        for function in self._functions:
            self._read(function)
        self._read_methods()

    def attributes(self, value: Any) -> set[str]:
        """The names of a value's attributes that are state."""
        return self._of.get(id(value), set()) | self._of_kind.get(type(value), set())

    def _gather(self, value: Any, depth: int) -> None:
        """Every function in a value, and the classes of the objects in it."""
        if isinstance(value, LEAVES) or id(value) in self._seen or depth > MAX_DEPTH:
            return
        self._seen.add(id(value))
        if isinstance(value, types.FunctionType):
            self._functions.append(value)
        elif not isinstance(value, Mapping | list | tuple | set | frozenset):
            self._kinds.add(type(value))
        for part in _parts(value):
            self._gather(part, depth + 1)

    def _read(self, function: types.FunctionType) -> None:
        """What one function changes: its variables, and attributes of objects in them."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for code in nested(function.__code__):
            for owner, attribute in changed(code):
                if owner not in cells or owner not in code.co_freevars:
                    continue
                if attribute is None:
                    self.cells.add(id(cells[owner]))
                    continue
                try:
                    held = cells[owner].cell_contents
                except ValueError:  # not set yet
                    continue
                self._of.setdefault(id(held), set()).add(attribute)

    def _read_methods(self) -> None:
        """What objects set on themselves in the methods that are called in a run."""
        called = {"__call__"}
        for function in self._functions:
            called |= names(function.__code__)
        methods = {
            kind: [
                (name, method.__code__)
                for base in kind.__mro__
                for name, method in vars(base).items()
                if isinstance(method, types.FunctionType) and name not in COMMON
            ]
            for kind in self._kinds
        }
        before = 0
        while len(called) != before:
            before = len(called)
            for own in methods.values():
                for name, code in own:
                    if name in called:
                        called |= names(code)
        for kind, own in methods.items():
            for name, code in own:
                if name in called and code.co_argcount:
                    itself = code.co_varnames[0]
                    found = {what for owner, what in changed(code) if owner == itself and what}
                    self._of_kind.setdefault(kind, set()).update(found)


def _parts(value: Any) -> Iterator[Any]:
    """What is in a value, as far as code may be in there."""
    if isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not set yet
                continue
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from value
    elif not (hasattr(value, "model") and hasattr(value, "patches")):  # another MODEL
        yield from getattr(value, "__dict__", {}).values()


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code and that of the functions in it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from nested(const)


def names(code: types.CodeType) -> set[str]:
    """What a function may call by name, methods that everything has left out."""
    return {name for each in nested(code) for name in each.co_names} - COMMON


@functools.lru_cache(maxsize=1024)
def changed(code: types.CodeType) -> tuple[tuple[str, str | None], ...]:
    """(variable, None) that is rebound or filled; (variable, attribute) of it that is."""
    return tuple(_changed(code))


def _changed(code: types.CodeType) -> Iterator[tuple[str, str | None]]:
    steps = list(_steps(code))
    for i, (what, name) in enumerate(steps):
        before = steps[max(0, i - 3) : i]
        if what == "STORE_DEREF":
            yield name, None
        elif what == "STORE_ATTR" and before and before[-1][0] == "LOAD":
            yield before[-1][1], name
        elif what == "STORE_ATTR":  # x.name += 1: it was read from the same x
            reads = [j for j in range(2, i) if steps[j] == ("ATTR", name)]
            owner = steps[reads[-1] - 2] if reads else ("", "")
            yield from [(owner[1], name)] if owner[0] == "LOAD" else []
        elif what == "ATTR" and name in FILLING:
            yield from _held(before)
        elif what == "STORE_SUBSCR" and before and before[-1][0] in ("LOAD", "CONST"):
            yield from _held(before[:-1])


def _held(before: list[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
    """The variable, or the attribute of one, that was put on the stack last."""
    if before and before[-1][0] == "LOAD":
        yield before[-1][1], None
    elif len(before) > 1 and before[-1][0] == "ATTR" and before[-2][0] == "LOAD":
        yield before[-2][1], before[-1][1]


def _steps(code: types.CodeType) -> Iterator[tuple[str, str]]:
    """The instructions that matter, by the same names in every version of Python."""
    for each in dis.get_instructions(code):
        name = each.opname
        if isinstance(each.argval, tuple) and "FAST" in name:  # two in one, since 3.13
            yield from (("LOAD", str(part)) for part in each.argval)
        elif name.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")):
            yield "LOAD", str(each.argval)
        elif name in ("LOAD_ATTR", "LOAD_METHOD"):
            yield "ATTR", str(each.argval)
        elif name in ("STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR"):
            yield name, str(each.argval)
        elif name.startswith(("LOAD_CONST", "LOAD_GLOBAL", "LOAD_SMALL_INT")):
            yield "CONST", ""
        elif name not in ("CACHE", "RESUME", "COPY_FREE_VARS", "NOP", "PRECALL", "EXTENDED_ARG"):
            yield name, ""
