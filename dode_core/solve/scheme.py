"""Which solver, in which coordinates, corrected in which directions: all but the sigma grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .directions import PAPER, directed, direction_names, get_direction
from .solver import Solver, looking_ahead
from .solvers import get_solver
from .stages import LookAhead, Stage, plain


@dataclass(frozen=True)
class Scheme:
    """A solver's name, a parametrisation, and names of ``DIRECTIONS``, one for each lambda.

    ``stages(grid)`` are what fits, tables and samplers run. Raises :class:`DodeError` for names
    that are not known.
    """

    solver: str = "ddim"
    parametrization: str = "ve"
    directions: tuple[str, ...] = PAPER

    def __post_init__(self) -> None:
        get_solver(self.solver)
        for name in self.directions:
            get_direction(name)

    @classmethod
    def of(cls, solver: str, parametrization: str, columns: int = 1, gain: bool = False) -> Scheme:
        """By the arguments ``columns`` and ``gain`` of :func:`dode_core.distill`."""
        return cls(solver, parametrization, direction_names(columns, gain))

    @property
    def base(self) -> Solver:
        """The solver itself."""
        return get_solver(self.solver)

    @property
    def width(self) -> int:
        """Lambdas a stage."""
        return len(self.directions)

    def stages(self, grid: Sequence[float], look_ahead: LookAhead | None = None) -> list[Stage]:
        """The stages of one run over ``grid``; ``look_ahead`` is for runs from pure noise."""
        stages = self.base.base(grid, self.parametrization)
        return directed(looking_ahead(stages, look_ahead), self.directions)

    def plain(self, grid: Sequence[float]) -> list[Stage]:
        """The solver's own stages, without corrections."""
        return plain(self.base.base(grid, self.parametrization))
