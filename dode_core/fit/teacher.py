"""The teacher: the same noise, many more steps, stopping at the student's own noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..solve.integrate import Denoiser, State, integrate
from ..solve.solvers import get_solver
from ..solve.stages import Stage, plain

# Spacing inside one student interval: equal steps in sigma^(1/rho); the interval that ends at 0 has
# its own, or many sub-steps would go to sigmas that change nothing.
RHO, RHO_TO_ZERO = {"ve": 7.0, "flow": 1.0}, {"ve": 3.0, "flow": 1.0}
MAX_SUBSTEPS = 1000


@dataclass(frozen=True)
class Teacher:
    """A solver run on a refinement of the student's grid, ``substeps`` steps per interval.

    The default is the cheapest whose states serve as well as converged ones on the demo model
    (``benchmarks/calibration.py``). ``Teacher("ddim", 10)`` is the paper's choice, aligned.
    """

    solver: str = "dpmpp_2m"
    substeps: int = 2

    def __post_init__(self) -> None:
        get_solver(self.solver)
        if not 1 <= self.substeps <= MAX_SUBSTEPS:
            raise CalibrationError(
                f"Teacher sub-steps is {self.substeps}; use 1 to {MAX_SUBSTEPS}."
            )

    @property
    def name(self) -> str:
        """As tables say it."""
        return f"{self.solver} x{self.substeps}"

    def refine(self, sigmas: Sequence[float], parametrization: str = "ve") -> list[float]:
        """The student's grid with ``substeps`` steps in every interval; its nodes are kept."""
        grid = [float(sigmas[0])]
        for s, t in zip(sigmas[:-1], sigmas[1:], strict=True):
            rho = (RHO if t else RHO_TO_ZERO)[parametrization]
            low, high = s ** (1 / rho), t ** (1 / rho)
            inner = range(1, self.substeps)
            grid += [(low + i / self.substeps * (high - low)) ** rho for i in inner]
            grid.append(float(t))
        return grid

    def stages(self, sigmas: Sequence[float], parametrization: str = "ve") -> list[Stage]:
        """The stages of the whole fine run."""
        return plain(
            get_solver(self.solver).stages(self.refine(sigmas, parametrization), parametrization)
        )

    def states(
        self,
        model: Denoiser,
        start: State | Tensor,
        sigmas: Sequence[float],
        parametrization: str = "ve",
    ) -> Tensor:
        """The states at sigmas[1:], shape (len(sigmas) - 1, B, ...), where the start's x lives."""
        stages = self.stages(sigmas, parametrization)
        state = State.begin(start) if isinstance(start, Tensor) else start.copy()
        found = []
        for k, stage in integrate(model, [state], stages, parametrization=parametrization):
            ends = k + 1 == len(stages) or stages[k + 1].starts_step
            if ends and stage.sigma_next == sigmas[len(found) + 1]:
                found.append(state.x)
        if len(found) != len(sigmas) - 1:
            raise CalibrationError(
                f"A {self.solver} teacher of {self.substeps} sub-steps passes only {len(found)} of "
                f"the student's {len(sigmas) - 1} noise levels; use sub-steps that are a multiple "
                "of the solver's evaluations per step."
            )
        return torch.stack(found)
