"""Measuring tables again on one's own checkpoint: is each better than its plain solver?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..fit.peers import hosts_kind
from ..fit.products import flat
from ..fit.trajectory import DENSE_LOW, DENSE_STEPS, dense_grid, dense_teacher
from ..sampler import sample
from ..solve.integrate import State
from ..solve.noise import same_sigmas
from ..tables.table import LambdaTable
from .loading import Loaded

WORSE = 1.0 + 1e-6  # of the plain solver's error; equal tables are not refused
OTHER_SEED = 1_000_003  # added to a table's own: noise that it was not made with


@dataclass(frozen=True)
class Measured:
    """RMS errors of the final state against the teacher's, on new noise.

    ``plain`` is that of what the table is measured beside: its solver without it, or ``beside``.
    """

    table: LambdaTable
    plain: float
    distilled: float
    beside: str = "plain"

    @property
    def helps(self) -> bool:
        return self.distilled <= WORSE * self.plain

    def describe(self) -> str:
        """One line for the report."""
        ratio = self.distilled / self.plain if self.plain else 1.0
        # Of a profile's table it is expected, not measured, and not beside this sampler.
        known = self.table.errors if self.beside == "plain" else None
        claim = known.ratio if known else None
        claimed = "" if claim is None else f", claimed {claim:.2f}"
        verdict = "ok" if self.helps else f"WORSE than {self.beside}"
        errors = f"{self.beside} {self.plain:.4g}, distilled {self.distilled:.4g}: {ratio:.2f}"
        what = f"{self.table.solver} {self.table.steps} steps"
        cfg = "" if self.table.cfg is None else f" cfg {self.table.cfg:g}"
        return f"{what}{cfg}: {errors}{claimed}  {verdict}"


def measure(
    loaded: Loaded,
    tables: Sequence[LambdaTable],
    samples: int,
    seed: int,
    batch_size: int = 8,
    *,
    beside: str | None = None,
) -> Iterator[Measured]:
    """Errors of plain and distilled solver on ``samples`` new noises, table after table.

    ``beside`` names another solver to measure beside than the table's own, without it.

    One dense teacher serves all tables with the same cfg. A table with learned sigmas is compared
    with the plain solver on the model's own schedule. Raises :class:`CalibrationError` for tables
    that cannot be for this checkpoint.
    """
    references: dict[tuple[float | None, float], Tensor] = {}
    for table in tables:
        _check(loaded, table)
        cfg, last = table.cfg or 1.0, float(table.sigmas[-1])
        x = loaded.noise(samples, seed + OTHER_SEED)
        args = dict(loaded.conditions(samples, cfg))
        parts = [slice(i, i + batch_size) for i in range(0, samples, batch_size)]
        key = (cfg, last)
        if key not in references:
            references[key] = torch.cat([_reference(loaded, x, args, p, last) for p in parts])
        grids = [loaded.sigmas("auto", table.steps) if table.learned_sigmas else table.sigmas]
        grids.append(table.sigmas)
        errors = []
        for grid, used in zip(grids, (None, table), strict=True):
            solver = table.solver if used else beside or table.solver
            kind = hosts_kind(solver, loaded.parametrization) if beside and not used else None
            found = [_sample(loaded, x, args, p, grid, (solver, kind), used) for p in parts]
            errors.append(_rms(torch.cat(found) - references[key]))
        yield Measured(table, errors[0], errors[1], beside or "plain")


def _check(loaded: Loaded, table: LambdaTable) -> None:
    if table.parametrization != loaded.parametrization:
        raise CalibrationError(
            f"The table is for {table.parametrization} models, {loaded.name} is "
            f"{loaded.parametrization}; choose another checkpoint."
        )
    first = float(table.sigmas[0])
    if not same_sigmas([first], [loaded.high], 1e-2):
        raise CalibrationError(
            f"The table starts at sigma {first:g}, {loaded.name} at {loaded.high:g}; choose "
            "another checkpoint."
        )


def _part(args: dict[str, object], rows: slice, samples: int) -> dict[str, object]:
    return {
        key: value[rows] if isinstance(value, Tensor) and len(value) == samples else value
        for key, value in args.items()
    }


@torch.no_grad()
def _reference(
    loaded: Loaded, x: Tensor, args: dict[str, object], rows: slice, last: float
) -> Tensor:
    kind = loaded.parametrization
    low = last or min(loaded.low, DENSE_LOW[kind] * loaded.high)
    grid = dense_grid(loaded.high, low, kind, DENSE_STEPS)
    grid = grid if last == 0 else grid[:-1]
    state = State.begin(x[rows], _part(args, rows, len(x)))
    return dense_teacher(loaded.model, state, grid, kind).final


def _sample(
    loaded: Loaded,
    x: Tensor,
    args: dict[str, object],
    rows: slice,
    grid: Tensor,
    solver: tuple[str, str | None],
    table: LambdaTable | None,
) -> Tensor:
    """``solver``: its name, and a parametrisation where it is not the model's own."""
    start = x[rows] * (float(grid[0]) / loaded.high)
    name, kind = solver[0], solver[1] or loaded.parametrization
    options = {"solver": name, "table": table, "parametrization": kind}
    return sample(loaded.model, start, grid, _part(args, rows, len(x)), disable=True, **options)


def _rms(difference: Tensor) -> float:
    value = math.sqrt(float(flat(difference).square().mean()))
    if not math.isfinite(value):
        raise CalibrationError("The samples are not finite; check the model's precision.")
    return value
