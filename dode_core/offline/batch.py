"""Tables for one checkpoint after the other; what a file has already is not made again."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import TableError
from ..fit import distributed
from ..fit.guarded import Progress
from ..fit.memory import free_memory
from ..many_tables import distill_many
from ..refining import seed_for, start_for
from ..response.profile import SUFFIX
from ..reuse import Recipe, find_same, stamped
from ..shelf import StoredProfile, load_profile
from ..solve.scheme import Scheme
from ..tables import files
from ..tables.library import Stored
from ..tables.table import LambdaTable, load_tables, save_tables
from .loading import Loaded


@dataclass(frozen=True)
class Plan:
    """Which tables, and on how much they are learned."""

    solvers: Sequence[str] = ("ddim",)
    steps: Sequence[int] = (8,)
    schedule: str = "auto"
    cfg: float = 1.0
    samples: int = 16
    seed: int = 0
    holdout: float = 0.25
    batch_size: int = 8
    columns: int = 1
    gain: bool = False
    learn_sigmas: bool = False
    budget: float | None = None
    again: bool = False


def distill_checkpoint(
    loaded: Loaded, plan: Plan, file: Path, progress: Progress | None = None
) -> tuple[list[LambdaTable], int]:
    """Make and save the tables that ``file`` lacks; (the new ones, how many were there).

    Solvers that lack the same step counts share one teacher; each such group is saved when it is
    done, by process 0. Raises :class:`DodeError`.
    """
    there = load_tables(file) if file.exists() and not plan.again else []
    made: list[LambdaTable] = []
    groups = _groups(loaded, plan, there)
    for steps, solvers in groups.items():
        starts = _starts(loaded, plan, steps)
        schemes = [_scheme(loaded, plan, solver) for solver in solvers]
        tables = distill_many(
            loaded.model,
            loaded.noise(plan.samples, seed_for(plan.seed, starts, schemes)),
            [loaded.sigmas(plan.schedule, n) for n in steps],
            solvers,
            extra_args=loaded.conditions(plan.samples, plan.cfg),
            holdout=plan.holdout,
            progress=progress,
            parametrization=loaded.parametrization,
            batch_size=plan.batch_size,
            settings=((plan.columns, plan.gain),),
            learn_sigmas=plan.learn_sigmas,
            budget=plan.budget,
            starts=starts,
        )
        tables = [stamped(table, loaded.identity, plan.cfg, plan.seed) for table in tables]
        distributed.all_well()
        if distributed.rank() == 0:
            save_tables(file, tables)
        made += tables
    wanted = len(plan.solvers) * len(plan.steps)
    return made, wanted - sum(len(steps) * len(solvers) for steps, solvers in groups.items())


def _starts(loaded: Loaded, plan: Plan, steps: Sequence[int]) -> list[LambdaTable]:
    """The tables of the profile beside the checkpoint: learning goes on from them."""
    if not plan.learn_sigmas:
        return []
    try:
        stored = [StoredProfile(load_profile(file := profile_path(loaded, plan.cfg)), file)]
    except (OSError, TableError):
        return []
    shape, found = tuple(loaded.shape), []
    for n in steps:
        grid = loaded.sigmas(plan.schedule, n).tolist()
        found.append(start_for(stored, loaded.identity, plan.cfg, shape, grid))
    return [table for table in found if table is not None]


def profile_path(loaded: Loaded, cfg: float) -> Path:
    """Where the profile of a checkpoint at one cfg goes when nobody says: beside its tables."""
    stem = loaded.file.name.removesuffix(files.SUFFIX)
    return loaded.file.with_name(f"{stem}.cfg{cfg:g}{SUFFIX}")


def _groups(
    loaded: Loaded, plan: Plan, there: Sequence[LambdaTable]
) -> Mapping[tuple[int, ...], list[str]]:
    """Solvers by the step counts that they lack."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for solver in plan.solvers:
        lacking = [n for n in plan.steps if not _is_there(loaded, plan, solver, n, there)]
        if lacking:
            groups.setdefault(tuple(lacking), []).append(solver)
    return groups


def _scheme(loaded: Loaded, plan: Plan, solver: str) -> Scheme:
    return Scheme.of(solver, loaded.parametrization, plan.columns, plan.gain)


def _is_there(
    loaded: Loaded, plan: Plan, solver: str, steps: int, there: Sequence[LambdaTable]
) -> bool:
    """Whether one of the tables is what this plan would make."""
    recipe = Recipe(
        scheme=_scheme(loaded, plan, solver),
        grid=loaded.sigmas(plan.schedule, steps).tolist(),
        learn_sigmas=plan.learn_sigmas,
        samples=plan.samples,
        holdout=plan.holdout,
        seed=plan.seed,
        cfg=plan.cfg,
        latent_shape=loaded.shape,
    )
    stored = [Stored(table, loaded.file) for table in there]
    return find_same(stored, loaded.identity, recipe) is not None


def free_checkpoint() -> None:
    """Let the next checkpoint have the memory of the last, to which nothing refers any more."""
    gc.collect()
    free_memory()
