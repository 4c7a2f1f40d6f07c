"""What a diffusers scheduler runs: stored tables, or a profile for any number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ..errors import DodeError, SigmasError
from ..match.best import Query
from ..match.resolve import Resolution, resolve
from ..response.profile import Profile
from ..shelf import served
from ..solve.solvers import get_solver
from ..tables.table import LambdaTable
from .pipeline_noise import PipelineNoise

Grid = Sequence[float]
KINDS = {"ve": "no flow model", "flow": "a flow model"}
ROOM = 1.01  # a profile may begin this much above the pipeline's highest sigma: rounding


class Serving(Protocol):
    """Chooses for a run; ``own`` is asked first, then ``resolution`` for the grid that is run."""

    def own(self, steps: int, usual: Callable[[], Grid]) -> LambdaTable | None:
        """A table of so many steps, whose sigmas the run then takes; ``usual`` are its own."""
        ...

    def resolution(self, grid: Grid) -> Resolution:
        """What runs over ``grid``; where nothing serves it, plain DPM++ 2M."""
        ...


class Tables:
    """Stored tables: exact step counts, parts of them, and what carries over."""

    def __init__(
        self, tables: Sequence[LambdaTable], noise: PipelineNoise, cfg: float | None
    ) -> None:
        if not tables:
            raise DodeError("No table is given; distill one first.")
        for each in tables:
            check_kind(each.parametrization, noise, f"table ({each.describe()})")
            why = unfit(each)
            if why:
                raise DodeError(why)
        self.tables, self.kind, self.cfg = list(tables), noise.parametrization, cfg

    def own(self, steps: int, usual: Callable[[], Grid]) -> LambdaTable | None:
        """Nearest in cfg where that is known, the newest of those."""
        fitting = [table for table in self.tables if table.steps == steps]
        cfg = self.cfg
        if cfg is None:
            return fitting[-1] if fitting else None

        def distance(table: LambdaTable) -> float:
            return 0.0 if table.cfg is None else abs(table.cfg - cfg)

        return min(reversed(fitting), key=distance, default=None)

    def resolution(self, grid: Grid) -> Resolution:
        return resolve(self.tables, grid, cfg=self.cfg, parametrization=self.kind)


class FromProfile:
    """A profile: a table for any number of steps, and for whatever grid a run has."""

    def __init__(self, profile: Profile, noise: PipelineNoise, cfg: float | None) -> None:
        check_kind(profile.parametrization, noise, "profile")
        if profile.sigma_max > ROOM * noise.highest:
            raise DodeError(
                f"The profile goes up to sigma {profile.sigma_max:.4g}, but the pipeline's model "
                f"to {noise.highest:.4g}; use a profile that was made for it."
            )
        looks = profile.looks if noise.parametrization == "ve" else ()
        made = tuple(table for table in profile.tables if not unfit(table))
        self.profile = replace(profile, looks=looks, tables=made)
        self.kind, self.cfg = noise.parametrization, cfg
        self._own: tuple[LambdaTable, Grid] | None = None

    def own(self, steps: int, usual: Callable[[], Grid]) -> LambdaTable | None:
        """None for more steps than a profile makes sigmas for."""
        try:
            table = self.profile.table(steps)
        except SigmasError:
            self._own = None
            return None
        self._own = table, usual()
        return table

    def resolution(self, grid: Grid) -> Resolution:
        table, usual = self._own or (None, grid)
        if table is None or table.sigmas.tolist() != list(grid):  # a part, or chosen by hand
            usual = grid
            try:
                table = self.profile.table(sigmas=grid)
            except SigmasError as error:
                plain = resolve([], grid, parametrization=self.kind)
                said = f"the profile does not serve this run ({str(error).rstrip('.')})"
                return replace(plain, message=f"uncalibrated: {said}, DPM++ 2M runs without it")
        made = served(self.profile, table, Query(tuple(usual), self.kind, self.cfg))
        at, cfg = self.profile.cfg, self.cfg
        if at is not None and cfg is not None and at != cfg:
            said = f"{made.message}; made at cfg {at:g}, this run is {cfg:g}"
            made = replace(made, message=said, worth="")
        return made


def check_kind(kind: str, noise: PipelineNoise, what: str) -> None:
    """Raises :class:`DodeError` where one is for flow models and the other is not."""
    if kind != noise.parametrization:
        raise DodeError(
            f"The {what} is for {KINDS[kind]}, but the pipeline's is "
            f"{KINDS[noise.parametrization]}; use a {what.split()[0]} that was made for it."
        )


def unfit(table: LambdaTable) -> str:
    """Why a scheduler of diffusers cannot run a table; empty where it can."""
    if get_solver(table.solver).stages_a_step != 1:
        return (
            f"{get_solver(table.solver).label} evaluates the model more than once a step, which a "
            "scheduler of diffusers cannot; distill ddim, ipndm, deis or dpmpp_2m."
        )
    if table.look_ahead is not None and table.parametrization == "flow":
        return (
            "The table looks ahead, which flow pipelines of diffusers leave no room for; distill "
            "one that does not."
        )
    return ""
