"""What solvers are made of: one stage per model evaluation.

At evaluation k, newest output first:

    x_next = start * x_start + here * x + sum_j b_j m_j + sum_i lambda_i sum_j c_ij m_j

Source: Kim, Tang, Yu, CVPR 2024, arXiv 2309.16421, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import DodeError

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[float, ...]
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
    ``c`` has a row for each direction; those numbered in ``free`` need not sum to zero (a gain).
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
    free: tuple[int, ...] = ()
    look_ahead: LookAhead | None = None

    def __post_init__(self) -> None:
        states = self.start + self.here
        noise = self.start * self.sigma_start + self.here * self.sigma
        if self.output == "eps":  # a straight path x0 + sigma * m is followed exactly
            errors = [states - 1, noise + sum(self.b) - self.sigma_next]
        else:  # so is x0 + sigma * eps when the denoiser returns x0
            errors = [states + sum(self.b) - 1, noise - self.sigma_next]
        errors += [sum(row) for i, row in enumerate(self.c) if i not in self.free]
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


def plain(stages: Sequence[Stage]) -> list[Stage]:
    """The same stages without correction: no history is kept for directions nobody follows."""
    return [replace(stage, c=(), free=(), look_ahead=None) for stage in stages]
