"""What a solver is made of: stages, the grid they are made from, and the solver around both.

One stage per model evaluation k, newest output first:

    x_next = start * x_start + here * x + sum_j b_j m_j + sum_i lambda_i sum_j c_ij m_j

Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import DodeError
from .noise import DEFAULT_TIME, PARAMETRIZATIONS, TIME_MAPS, check_sigmas, log_snr

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[float, ...]
MAX_COLUMNS = 3
MAX_CHANNELS = 256  # of a look ahead's mean
_TOLERANCE = 1e-9  # rounding allowed when a stage checks its own rows


@dataclass(frozen=True)
class LookAhead:
    """Where the first evaluation looks: at a lower sigma than the run starts from.

    At the first sigma the state is pure noise, so the model is shown what a DDIM step from there
    to ``sigma`` makes of it when the denoised output is guessed to be ``mean``, one number per
    channel (none: zeros). No evaluation is spent at the first sigma, where it would return little
    more than that mean.
    """

    sigma: float
    mean: Row = ()

    def seen(self, x: Tensor, start: float) -> Tensor:
        """(sigma / s) x + (1 - sigma / s) mean, x (B, C, ...) at sigma s = ``start``."""
        ratio = self.sigma / start
        out = x * ratio
        if self.mean and len(self.mean) != x.shape[1]:
            raise DodeError(
                f"The table's mean is of {len(self.mean)} channels, but the latent has "
                f"{x.shape[1]}; use a table made for this model."
            )
        for channel, value in enumerate(self.mean):  # filled from here: nothing waits for a GPU
            out[:, channel] += (1 - ratio) * value
        return out


@dataclass(frozen=True)
class Stage:
    """One model evaluation and the affine update that follows it.

    ``step`` numbers the interval of the grid, for callbacks: the state lands at ``sigma_next``,
    node step + 1. ``sigma_start`` is where the step began; the model is evaluated at ``sigma``.
    ``role`` tells stages apart that do different jobs (predictor, corrector).
    ``adams_bashforth`` is the lambda that turns a first-order base into variable-step
    Adams-Bashforth 2, None where the base is not first order.
    ``look_ahead`` moves a run's first evaluation; the update stays that of a state at ``sigma``.
    """

    step: int
    sigma_start: float
    sigma: float
    sigma_next: float
    output: str
    start: float
    here: float
    b: Row
    c: tuple[Row, ...]
    role: str = ""
    adams_bashforth: float | None = None
    gain: bool = False
    look_ahead: LookAhead | None = None

    def __post_init__(self) -> None:
        states = self.start + self.here
        noise = self.start * self.sigma_start + self.here * self.sigma
        if self.output == "eps":  # a straight path x0 + sigma * m is followed exactly
            errors = [states - 1, noise + sum(self.b) - self.sigma_next]
        else:  # so is x0 + sigma * eps when the denoiser returns x0
            errors = [states + sum(self.b) - 1, noise - self.sigma_next]
        differences = self.c[:-1] if self.gain else self.c
        errors += [sum(row) for row in differences]
        sizes = [abs(v) for row in (self.b, *self.c) for v in row]
        scale = max([1.0, self.sigma_start, self.sigma, *sizes])
        if not all(abs(error) <= _TOLERANCE * scale for error in errors):
            raise DodeError(
                f"The stage at sigma {self.sigma:g} to {self.sigma_next:g} has inconsistent rows "
                f"(residuals {errors}); this is a bug in the solver that built it."
            )

    @property
    def starts_step(self) -> bool:
        """Whether the state this stage is evaluated at begins a new step."""
        return self.start == 0

    @property
    def history(self) -> int:
        """How many outputs, the newest included, this stage reads."""
        return max(len(row) for row in (self.b, *self.c))


@dataclass(frozen=True)
class Grid:
    """What a solver may know: the sigmas, the parametrisation and the model's time."""

    sigmas: tuple[float, ...]
    parametrization: str
    time: Callable[[float], float]

    def log_snr(self, i: int) -> float:
        return log_snr(self.sigmas[i], self.parametrization)


Build = Callable[[Grid], list[Stage]]


@dataclass(frozen=True)
class Solver:
    """A solver: ``stages(sigmas)`` turns a grid into coefficients, and is all there is to it.

    ``output`` is what it extrapolates: ``eps`` or ``denoised``. ``evaluations(n)`` counts model
    calls for n steps on a grid that ends at 0.
    """

    name: str
    label: str
    summary: str
    output: str
    build: Build

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
        if parametrization not in PARAMETRIZATIONS:
            raise DodeError(
                f"Parametrisation {parametrization!r} is unknown; use one of {PARAMETRIZATIONS}."
            )
        if not 1 <= columns <= MAX_COLUMNS:
            raise DodeError(f"columns is {columns}; use 1 to {MAX_COLUMNS}.")
        if not callable(time):
            time = TIME_MAPS[time or DEFAULT_TIME[parametrization]]
        stages = self.build(Grid(check_sigmas(sigmas), parametrization, time))
        if look_ahead is not None and stages:
            stages[0] = replace(stages[0], look_ahead=look_ahead)
        if columns == 1 and not gain:
            return stages
        guess = self.output == "eps"
        return [_widen(s, k + 1 + guess, columns, gain) for k, s in enumerate(stages)]

    def evaluations(self, steps: int) -> int:
        """Model evaluations that ``steps`` steps cost, on a grid that ends at 0."""
        return len(self.build(Grid((*range(steps, 0, -1), 0), "ve", float)))


def _widen(stage: Stage, available: int, columns: int, gain: bool) -> Stage:
    """The same stage with difference columns (and a gain) instead of the paper's one direction.

    Every column is scaled by the newest output's own coefficient, so that lambdas stay
    dimensionless. Columns that lack history are empty rows.
    """
    scale = stage.b[0]
    rows = stage.c if columns == 1 else ()
    if columns > 1:
        rows = tuple(
            (0.0,) * j + (scale, -scale) if j + 2 <= available else () for j in range(columns)
        )
    return replace(stage, c=rows + ((scale,),), gain=True) if gain else replace(stage, c=rows)
