"""What a solver is: one function from a sigma grid to stages, and a few facts about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import DodeError
from .directions import directed, direction_names
from .noise import DEFAULT_TIME, PARAMETRIZATIONS, TIME_MAPS, check_sigmas, log_snr
from .stages import LookAhead, Row, Stage


@dataclass(frozen=True)
class Grid:
    """What a solver may know: the sigmas, the parametrisation and the model's time."""

    sigmas: tuple[float, ...]
    parametrization: str
    time: Callable[[float], float]

    def log_snr(self, i: int) -> float:
        return log_snr(self.sigmas[i], self.parametrization)

    def step(
        self, i: int, output: str, b: Row, c: Row, role: str = "", ab: float | None = None
    ) -> Stage:
        """Step i as one evaluation: x + sum_j b_j eps_j, or (t/s) x + sum_j b_j D_j.

        c is its correction; ab its Adams-Bashforth lambda, where it is of first order.
        """
        s, t = self.sigmas[i], self.sigmas[i + 1]
        return Stage(
            step=i,
            sigma_start=s,
            sigma=s,
            sigma_next=t,
            output=output,
            start=0.0,
            here=1.0 if output == "eps" else t / s,
            b=b,
            c=(c,),
            role=role,
            adams_bashforth=ab,
        )


Build = Callable[[Grid], list[Stage]]


@dataclass(frozen=True)
class Solver:
    """A solver: ``stages(sigmas)`` turns a grid into coefficients, and is all there is to it.

    ``output`` is what it extrapolates: ``eps`` or ``denoised``. ``first_order``: its steps are
    Euler's, so that one lambda makes them Adams-Bashforth 2 (:attr:`Stage.adams_bashforth`).
    ``stages_a_step``: model evaluations between two nodes of the grid, 2 for a corrector that
    evaluates the node that it lands on.
    """

    name: str
    label: str
    summary: str
    output: str
    build: Build
    first_order: bool = False
    stages_a_step: int = 1

    def stages(
        self,
        sigmas: Sequence[float],
        parametrization: str = "ve",
        *,
        columns: int = 1,
        gain: bool = False,
        look_ahead: LookAhead | None = None,
        time: str | Callable[[float], float] | None = None,
    ) -> list[Stage]:
        """The stages of one run; none for a single sigma.

        columns = 1 is the paper's correction; 2 and 3 are differences of successive outputs;
        ``gain`` adds the newest output itself as the last column. ``look_ahead`` is for runs that
        start from pure noise. ``time`` maps sigma to the model's time (``deis`` only): a name of
        ``TIME_MAPS`` or a function.
        """
        names = direction_names(columns, gain)
        stages = self.base(sigmas, parametrization, time)
        return directed(looking_ahead(stages, look_ahead), names)

    def base(
        self,
        sigmas: Sequence[float],
        parametrization: str = "ve",
        time: str | Callable[[float], float] | None = None,
    ) -> list[Stage]:
        """The stages with the solver's own correction as their only direction."""
        if parametrization not in PARAMETRIZATIONS:
            raise DodeError(
                f"Parametrisation {parametrization!r} is unknown; use one of {PARAMETRIZATIONS}."
            )
        if not callable(time):
            time = TIME_MAPS[time or DEFAULT_TIME[parametrization]]
        return self.build(Grid(check_sigmas(sigmas), parametrization, time))

    def evaluations(self, steps: int) -> int:
        """Model evaluations that ``steps`` steps cost, on a grid that ends at 0."""
        return len(self.build(Grid((*range(steps, 0, -1), 0), "ve", float)))

    def steps_for(self, evaluations: int) -> int:
        """The fewest steps that cost so many evaluations or more, on a grid that ends at 0."""
        steps = -(-evaluations // self.stages_a_step)
        while self.evaluations(steps) < evaluations:
            steps += 1
        return steps


def looking_ahead(stages: Sequence[Stage], look_ahead: LookAhead | None) -> list[Stage]:
    """The same stages, the first of which asks the model at a lower sigma."""
    if look_ahead is None or not stages:
        return list(stages)
    return [replace(stages[0], look_ahead=look_ahead), *stages[1:]]
