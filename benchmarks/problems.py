"""What the samplers are compared on: the demo models at several guidance scales, and a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from dode_core.demo.model import CLASSES, IMAGE_SHAPE, load_demo
from dode_core.solve.schedules import karras, uniform

from . import mnist_ddpm
from .common import tests_on_path

LOW, HIGH = 0.002, 80.0
REFERENCE_STEPS = 64  # of Heun, 127 evaluations
MNIST = "mnist"  # the third-party transformer
DDPM = "ddpm"  # the third-party noise predictor


@dataclass(frozen=True)
class Problem:
    """A denoiser, how its runs start, and the grids that go with it."""

    name: str
    parametrization: str
    cfg: float = 1.0
    weights: str = ""  # of a demo model, MNIST or DDPM; none for the mixture

    @property
    def low(self) -> float:
        return mnist_ddpm.LOW if self.weights == DDPM else LOW

    @property
    def high(self) -> float:
        high = mnist_ddpm.HIGH if self.weights == DDPM else HIGH
        return 1.0 if self.parametrization == "flow" else high

    @cached_property
    def model(self) -> Any:
        if self.weights == MNIST:
            from .mnist_transformer import MnistTransformer

            return MnistTransformer()
        if self.weights == DDPM:
            return mnist_ddpm.MnistDdpm()
        if self.weights:
            return load_demo(self.weights)
        tests_on_path()
        # The tests' own; by name, because this module is called like theirs.
        mixture = import_module("problems").mixture
        return mixture(self.parametrization, (4, 8, 8), components=12, std=0.2, seed=3)

    def grid(self, steps: int) -> Tensor:
        """The grid that our tables are distilled for."""
        if self.parametrization == "flow":
            return uniform(steps, LOW, 1.0)
        return karras(steps, self.low, self.high)

    def fine_grid(self, steps: int = REFERENCE_STEPS) -> Tensor:
        """The grid of the converged solution."""
        fine = self.grid(steps)
        return fine**1.5 if self.parametrization == "flow" else fine

    def noise(self, count: int, seed: int) -> tuple[Tensor, dict[str, Any]]:
        """(noise at the first sigma, extra arguments of the model); labels cycle."""
        shape, classes = (IMAGE_SHAPE if self.weights else (4, 8, 8)), len(CLASSES)
        if self.weights == MNIST:
            from .mnist_transformer import CLASSES as classes
            from .mnist_transformer import IMAGE_SHAPE as shape
        if self.weights == DDPM:
            shape = mnist_ddpm.IMAGE_SHAPE
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(count, *shape, generator=generator) * self.high
        labels = torch.arange(count) % classes
        return x, {"labels": labels, "cfg": self.cfg} if self.weights not in ("", DDPM) else {}


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("EDM, cfg 1", "ve", 1.0, "emoji_edm"),
        Problem("EDM, cfg 3", "ve", 3.0, "emoji_edm"),
        Problem("flow, cfg 1", "flow", 1.0, "emoji_flow"),
        Problem("EDM, cfg 7", "ve", 7.0, "emoji_edm"),
        Problem("flow, cfg 3", "flow", 3.0, "emoji_flow"),
        Problem("mixture", "ve"),
        Problem("MNIST transformer, cfg 1", "flow", 1.0, MNIST),
        Problem("MNIST transformer, cfg 3", "flow", 3.0, MNIST),
        Problem("MNIST noise predictor", "ve", 1.0, DDPM),
    )
}
