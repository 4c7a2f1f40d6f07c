"""What to distill, checked: panels and HTTP give anything."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dode_core.errors import CalibrationError, DodeError
from dode_core.solve.solvers import SOLVERS

from . import host

BEST = "best"
MAX_STEPS, MAX_COUNTS = 100, 32
MAX_PROMPTS, MAX_PROMPT = 64, 20_000
AUTOMATIC = "Automatic"
# (least, most) of every number.
LIMITS: Mapping[str, tuple[float, float]] = {
    "cfg": (0, 100),
    "distilled_cfg_scale": (0, 100),
    "width": (64, 4096),
    "height": (64, 4096),
    "samples": (2, 256),
    "seed": (0, 2**32 - 1),
    "batch_size": (1, 64),
}


class RequestError(DodeError):
    """A request that cannot be carried out as it stands."""


@dataclass(frozen=True)
class Request:
    """One distillation: tables for every step count of one schedule, at one cfg.

    solver: a name of ``SOLVERS`` or ``best``. steps: what the Steps slider would say. scheduler:
    a label of the host's dropdown. prompts: the samples take turns. distilled_cfg_scale: the shift
    or distilled cfg of models that take one, None for the host's default. learn_sigmas: the sigmas
    too. once: a profile, which serves any number of steps, instead of tables; solver and
    learn_sigmas are not used then. batch_size: samples in memory at once.
    """

    solver: str = BEST
    steps: tuple[int, ...] = (8,)
    scheduler: str = AUTOMATIC
    prompts: tuple[str, ...] = ("",)
    negative: str = ""
    cfg: float = 7.0
    distilled_cfg_scale: float | None = None
    width: int = 512
    height: int = 512
    samples: int = 16
    learn_sigmas: bool = True
    once: bool = False
    seed: int = 0
    batch_size: int = 4

    def __post_init__(self) -> None:
        if self.solver != BEST and self.solver not in SOLVERS:
            known = ", ".join((BEST, *SOLVERS))
            raise RequestError(f"Solver {self.solver[:40]!r} is unknown; use one of {known}.")
        if not self.steps or not all(1 <= n <= MAX_STEPS for n in self.steps):
            raise RequestError(f"Steps are {self.steps[:5]}; use 1 to {MAX_STEPS}.")
        schedules = schedulers()
        if self.scheduler not in schedules:
            raise RequestError(
                f"Scheduler {self.scheduler[:40]!r} is unknown; use one of {', '.join(schedules)}."
            )
        if not 1 <= len(self.prompts) <= MAX_PROMPTS:
            raise RequestError(f"{len(self.prompts)} prompts given; use 1 to {MAX_PROMPTS}.")
        longest = max(map(len, (*self.prompts, self.negative)))
        if longest > MAX_PROMPT:
            raise RequestError(f"A prompt has {longest} characters; use at most {MAX_PROMPT}.")
        for name, (least, most) in LIMITS.items():
            value = getattr(self, name)
            if value is None:  # the host's default
                continue
            if not (math.isfinite(value) and least <= value <= most):
                raise RequestError(f"{name} is {value:g}; use {least:g} to {most:g}.")
        if self.once:
            from dode_core.calibration import check_samples  # not before there is work

            try:
                check_samples(self.samples)
            except CalibrationError as error:
                raise RequestError(str(error)) from error
        if self.width % 8 or self.height % 8:
            raise RequestError(f"The size is {self.width}x{self.height}; use multiples of 8.")


def schedulers() -> list[str]:
    """What a request may name: the host's dropdown, or the two that samplers' names can carry."""
    return host.schedule_names() or [AUTOMATIC, "Karras"]


def from_mapping(body: Any) -> Request:
    """A request from decoded JSON; every key is optional. Raises :class:`RequestError`."""
    if not isinstance(body, Mapping):
        raise RequestError(f"The body is a {type(body).__name__}; send a JSON object.")
    known = {field.name for field in fields(Request)}
    unknown = sorted(str(key)[:40] for key in body if key not in known)
    if unknown:
        raise RequestError(f"{unknown[0]!r} is unknown; use {', '.join(sorted(known))}.")
    return Request(**{key: _value(key, value) for key, value in body.items()})


def _value(key: str, value: Any) -> Any:
    if key == "steps":
        return parse_steps(value)
    if key == "prompts":
        return tuple(_text(key, each) for each in _list(key, value))
    if key in ("solver", "scheduler", "negative"):
        return _text(key, value)
    if key == "distilled_cfg_scale" and value is None:
        return None
    if key in ("learn_sigmas", "once"):
        if not isinstance(value, bool):
            raise RequestError(f"{key} is a {type(value).__name__}; use true or false.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9 * 10:
        raise RequestError(f"{key} is {str(value)[:40]!r}; use a number.")
    if key in ("cfg", "distilled_cfg_scale"):
        return float(value)
    if value != int(value):
        raise RequestError(f"{key} is {value:g}; use a whole number.")
    return int(value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{key} holds a {type(value).__name__}; use a text.")
    return value


def _list(key: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > MAX_PROMPTS:
        raise RequestError(f"{key} must be a list of at most {MAX_PROMPTS}.")
    return value


def parse_steps(value: Any) -> tuple[int, ...]:
    """Step counts from 8, "8", "4-10", "4, 6, 8-10" or [4, 6, 8]. Raises :class:`RequestError`."""
    if isinstance(value, list):
        parts = [str(each) for each in value[: MAX_COUNTS + 1] if not isinstance(each, bool)]
    elif isinstance(value, int | str) and not isinstance(value, bool):
        parts = re.sub(r"\s*-\s*", "-", str(value)[:400]).replace(",", " ").split()
    else:
        parts = []
    found: set[int] = set()
    for part in parts:
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part)
        if match is None:
            raise RequestError(
                f'Steps {part[:20]!r} are no number or range; write "4-10" or "4, 8".'
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if not 1 <= low <= high <= MAX_STEPS:
            raise RequestError(f"Steps {part} are not from 1 to {MAX_STEPS}, low before high.")
        found.update(range(low, high + 1))
    if not 1 <= len(found) <= MAX_COUNTS:
        raise RequestError(f"{len(found)} step counts given; use 1 to {MAX_COUNTS}.")
    return tuple(sorted(found))
