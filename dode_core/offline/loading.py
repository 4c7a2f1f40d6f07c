"""Checkpoints outside of any host: what a calibration needs to know of one, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import Denoiser
from ..solve.schedules import make_sigmas
from ..tables.files import read_bytes
from ..tables.identity import Identity

MAX_LINES, MAX_PROMPT = 10_000, 4000


@dataclass(frozen=True)
class Loaded:
    """A checkpoint ready to be distilled.

    model: the denoiser. low, high: its range of sigmas. shape: one latent's. conditions: (samples,
    cfg) to the model's arguments, prompts cycling through the samples. file: where its tables go
    when nobody says.
    """

    model: Denoiser
    parametrization: str
    name: str
    fingerprint: str
    low: float
    high: float
    shape: tuple[int, ...]
    conditions: Callable[[int, float], Mapping[str, Any]]
    file: Path
    device: str = "cpu"
    shift: float = 1.0

    @property
    def identity(self) -> Identity:
        """What its tables are stamped with."""
        return Identity(None, self.name, self.fingerprint)

    def noise(self, samples: int, seed: int) -> Tensor:
        """Starting states at ``high``, (samples, ...): the same for a seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(samples, *self.shape, generator=generator) * self.high).to(self.device)

    def sigmas(self, schedule: str, steps: int) -> Tensor:
        """A grid by name over the model's own range, float64, (steps + 1,)."""
        if schedule == "auto":
            schedule = "uniform" if self.parametrization == "flow" else "karras"
        sigmas = make_sigmas(schedule, steps, self.low, self.high)
        return self.shift * sigmas / (1 + (self.shift - 1) * sigmas) if self.shift != 1 else sigmas


@dataclass(frozen=True)
class Wanted:
    """How to load: the prompts, the size in pixels, the device and the number type."""

    prompts: Sequence[str] = ("",)
    negative: str = ""
    size: tuple[int, int] | None = None
    device: str = "cpu"
    dtype: str = "auto"


def read_lines(path: str | Path, what: str) -> list[str]:
    """The lines of a text file without empty ones and # comments. Raises :class:`TableError`."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{Path(path).name} is not UTF-8 text ({error.reason}).") from error
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in lines if line and not line.startswith("#")]
    longest = max(map(len, lines), default=0)
    if not 1 <= len(lines) <= MAX_LINES or longest > MAX_PROMPT or not all(map(_printable, lines)):
        raise CalibrationError(
            f"{Path(path).name} is no list of {what}: give 1 to {MAX_LINES} printable lines of at "
            f"most {MAX_PROMPT} letters."
        )
    return lines


def _printable(line: str) -> bool:
    return line.replace("\t", " ").isprintable()
