"""A profile: what one calibration leaves behind, and every run's table from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SigmasError
from ..solve.noise import check_sigmas, same_sigmas
from ..solve.scheme import Scheme
from ..solve.stages import LookAhead
from ..tables import files
from ..tables.fields import OF_PROFILE, Errors
from ..tables.table import LambdaTable
from ..version import PROGRAM
from .built_in import best_built_in, is_nearer
from .design import Designer
from .measured import Measured, compared, nearest
from .model import Response
from .observe import lambdas_of, scheme
from .profile_file import MAX_BYTES, dump_profile, read_fields
from .run_of_stages import expected_error
from .simulate import Plan

MOST_STEPS = 64
LEAST_START = 1.1  # of a run that has inner sigmas, against the lowest sigma
NEAR_STEPS = 10
SUFFIX = ".dode-profile"
# What every table of a profile has of it: also those that were made before the calibration ended.
ABOUT = ("evaluations", "dropped", "cfg", "latent_shape", "seed", "model_name", "model_fingerprint")


@dataclass(frozen=True, eq=False)
class Profile:
    """A checkpoint at one cfg: tables for any number of steps, any start and any grid.

    ``sigma_max`` and ``sigma_min`` are the checkpoint's range; ``mean`` is what a first evaluation
    that looks ahead guesses (None: none does), ``looks`` where: see :func:`look_of`.
    ``evaluations`` counts model evaluations per sample, all in. ``tables`` were made during the
    calibration and serve their runs first. Made by :func:`dode_core.calibrate`.
    """

    response: Response
    mean: tuple[float, ...] | None = None
    looks: tuple[float, ...] = ()
    weight: float = 0.0  # of the states on the way
    evaluations: float = 0.0
    samples_fit: int = 0
    samples_holdout: int = 0
    dropped: int = 0
    measured: tuple[Measured, ...] = ()
    tables: tuple[LambdaTable, ...] = ()
    cfg: float | None = None
    latent_shape: tuple[int, ...] = ()
    seed: int | None = None
    model_name: str = ""
    model_fingerprint: str = ""
    program: str = PROGRAM
    _made: dict[Any, LambdaTable] = field(default_factory=dict, init=False, repr=False)

    @property
    def parametrization(self) -> str:
        """``ve`` or ``flow``."""
        return self.response.parametrization

    @property
    def sigma_max(self) -> float:
        return float(self.response.knots[0])

    @property
    def sigma_min(self) -> float:
        return float(self.response.knots[-1])

    def table(
        self,
        steps: int | None = None,
        start: float | None = None,
        *,
        sigmas: Tensor | Sequence[float] | None = None,
    ) -> LambdaTable:
        """The table of a run, made in seconds without asking the model.

        ``steps`` alone: from pure noise at ``sigma_max``, on sigmas of its own, to 0. With
        ``start``: from the state at that sigma (image to image, hires, a later start step). With
        ``sigmas``: rows for a descending grid that is kept as it is. Raises
        :class:`SigmasError` for runs that the profile does not cover.
        """
        if (steps is None) == (sigmas is None):
            raise SigmasError("Give either the number of steps or the sigmas of the run.")
        if sigmas is not None:
            if start is not None:
                raise SigmasError("A grid has its own start; give either start or sigmas.")
            return self._cached(("grid", self._grid(sigmas)))
        if not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
            raise SigmasError(f"{steps} steps were asked for; a profile serves 1 to {MOST_STEPS}.")
        if start is not None:
            start = float(start)
            least = self.sigma_min * (LEAST_START if steps > 1 else 1)
            if not least < start <= self.sigma_max * (1 + 1e-4):
                raise SigmasError(
                    f"The run starts at sigma {start:g}, but the profile covers starts from "
                    f"{self.sigma_max:g} down to {least:g}."
                )
            start = None if start > self.sigma_max * (1 - 1e-4) else start
        return self._cached(("own", steps, start))

    def expected(self, table: LambdaTable) -> float:
        """The RMS error that the profile predicts for a table's own run, in latent units."""
        rows = table.lambdas.tolist()
        return expected_error(self.response, table.stages, rows)

    def expected_plain(
        self, solver: str, sigmas: Tensor | Sequence[float], kind: str | None = None
    ) -> float:
        """The same for a solver's plain rows on a grid; ``kind``: another parametrisation's."""
        stages = Scheme(solver, kind or self.parametrization).plain(self._grid(sigmas))
        return expected_error(self.response, stages)

    def optimism(self, table: LambdaTable) -> float:
        """Measured over expected error in the measured run that is most like a table's, at least 1.

        What is expected of a run that was chosen for its expectation is too low; of built-in rows,
        which were not, less so.
        """
        found = nearest(self.measured, table.steps, self.is_whole(table))
        if found is None:
            return 1.0
        return found.optimism if bool(table.lambdas.any()) else found.built_in_optimism

    def is_whole(self, table: LambdaTable) -> bool:
        """Whether a table's run begins at pure noise."""
        return float(table.sigmas[0]) > self.sigma_max * (1 - 1e-3)

    def plan(self, steps: int, start: float | None = None) -> Plan:
        """The run of ``steps`` evaluations, on sigmas of its own, of which least is expected."""
        ahead = None if start else look_of(self.looks, steps)
        return Designer(self.response, self.weight).own(steps, start, ahead)

    def describe(self) -> str:
        """One line: what it is for, what it took, and what was measured of it."""
        cfg = "" if self.cfg is None else f", cfg {self.cfg:g}"
        samples = self.samples_fit + self.samples_holdout
        text = f"any steps{cfg}, from sigma {self.sigma_max:.4g} to {self.sigma_min:.4g}; "
        text += f"{samples} samples, {self.evaluations:.0f} evaluations each"
        for each in self.measured:
            start = "" if each.start is None else f" from {each.start:.3g}"
            text += f"; {each.steps} steps{start}: error {each.measured:.3g}"
            text += f", {each.name} {each.built_in:.3g}" if each.built_in is not None else ""
        return text

    def save(self, path: str | Path) -> None:
        """Write the profile; the file is replaced atomically. See docs/profile-format.md."""
        files.rewrite(path, lambda name, raw: dump_profile(self))

    @staticmethod
    def load(path: str | Path) -> Profile:
        """The profile in a file, checked in every number. Raises :class:`TableError`."""
        path = Path(path)
        return parse_profile(files.read_bytes(path, MAX_BYTES), path.name)

    def _cached(self, key: tuple[Any, ...]) -> LambdaTable:
        if key not in self._made:
            table = self.known(*key[1:]) if key[0] == "own" else None
            self._made[key] = self._make(key) if table is None else table
        return replace(self._made[key], **{name: getattr(self, name) for name in ABOUT})

    def known(self, steps: int, start: float | None) -> LambdaTable | None:
        """The table that the calibration left for this run, if any."""
        first = self.sigma_max if start is None else start
        for table in self.tables:
            begins = float(table.sigmas[0])
            if table.steps == steps and same_sigmas((begins,), (first,)):
                return table
        return None

    def _make(self, key: tuple[Any, ...]) -> LambdaTable:
        given = key[1] if key[0] == "grid" else None
        if given is None:
            plan = self.plan(*key[1:])
        else:
            plan = Designer(self.response, self.weight).given(given)
        if given is None and compared(self.measured, *key[1:]):
            return self.table_of(plan)  # where built-in rows ended nearer, theirs is a known one
        return self.chosen(plan, given)

    def chosen(self, plan: Plan, given: Sequence[float] | None = None) -> LambdaTable:
        """The plan's table, or that of built-in rows where those are expected to end nearer.

        ``given`` is the grid that the plan had to keep.
        """
        table = self.table_of(plan, given is None)
        other = best_built_in(self, plan, given)
        return other if other is not None and is_nearer(self, other, table) else table

    def table_of(self, plan: Plan, learned: bool = True) -> LambdaTable:
        """A plan as a table; ``learned`` sigmas are its own."""
        plain = self.expected_plain("ddim", plan.sigmas)
        ahead = None if plan.ahead is None else LookAhead(plan.ahead, self.mean or ())
        return LambdaTable.of(
            scheme(self.parametrization),
            plan.sigmas,
            torch.tensor(lambdas_of(plan), dtype=torch.float64),
            errors=Errors(plain, plan.expected if math.isfinite(plan.expected) else plain),
            teacher=OF_PROFILE,
            samples_fit=self.samples_fit,
            samples_holdout=self.samples_holdout,
            evaluations=self.evaluations,
            dropped=self.dropped,
            learned_sigmas=learned,
            look_ahead=ahead,
            program=self.program,
        )

    def _grid(self, sigmas: Tensor | Sequence[float]) -> tuple[float, ...]:
        grid = check_sigmas(sigmas)
        if len(grid) < 2 or any(a <= b for a, b in zip(grid, grid[1:], strict=False)):
            raise SigmasError("A profile serves grids that fall from step to step.")
        if len(grid) - 1 > 4 * MOST_STEPS:
            raise SigmasError(f"The grid has {len(grid) - 1} steps; at most {4 * MOST_STEPS}.")
        if grid[0] > self.sigma_max * (1 + 1e-3) or (grid[-2] < self.sigma_min * (1 - 1e-3)):
            raise SigmasError(
                f"The grid goes from sigma {grid[0]:g} to {grid[-2]:g}, but the profile covers "
                f"{self.sigma_max:g} down to {self.sigma_min:g}."
            )
        return grid


def look_of(looks: Sequence[float], steps: int) -> float | None:
    """Where the first evaluation of a whole run looks: short runs at the first of ``looks``.

    A far look saves a short run a step, but what the model answers to a guess can send a sample
    elsewhere; a run of NEAR_STEPS or more has no need of the risk.
    """
    if not looks:
        return None
    return looks[0] if steps < NEAR_STEPS else looks[-1]


def parse_profile(raw: bytes, name: str = "profile") -> Profile:
    """A profile from the bytes of a file. Raises :class:`TableError` that starts with ``name``."""
    return Profile(**read_fields(raw, name))
