"""Tables for one checkpoint after the other; what a file has already is not made again."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..fit import distributed
from ..fit.batches import held_out_count
from ..fit.guarded import Progress
from ..fit.memory import free_memory
from ..many_tables import distill_many
from ..match.resolve import brings_sigmas
from ..solve.noise import same_sigmas
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


def distil_checkpoint(
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
        tables = distill_many(
            loaded.model,
            loaded.noise(plan.samples, plan.seed),
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
        )
        tables = [named(table, loaded, plan) for table in tables]
        distributed.all_well()
        if distributed.rank() == 0:
            save_tables(file, tables)
        made += tables
    wanted = len(plan.solvers) * len(plan.steps)
    return made, wanted - sum(len(steps) * len(solvers) for steps, solvers in groups.items())


def named(table: LambdaTable, loaded: Loaded, plan: Plan) -> LambdaTable:
    """The table with what it was made for."""
    return replace(
        table,
        model_name=loaded.name,
        model_fingerprint=loaded.fingerprint,
        cfg=plan.cfg,
        seed=plan.seed,
    )


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


def _is_there(
    loaded: Loaded, plan: Plan, solver: str, steps: int, there: Sequence[LambdaTable]
) -> bool:
    """Whether one of the tables is what this plan would make."""
    held_out = held_out_count(plan.samples, plan.holdout)
    grid = loaded.sigmas(plan.schedule, steps).tolist()
    wanted = {
        "solver": solver,
        "parametrization": loaded.parametrization,
        "model_fingerprint": loaded.fingerprint,
        "columns": plan.columns,
        "gain": plan.gain,
        "cfg": plan.cfg,
        "seed": plan.seed,
        "latent_shape": loaded.shape,
    }
    for table in there:
        same = all(getattr(table, name) == value for name, value in wanted.items())
        samples = table.samples_fit + table.samples_holdout + table.dropped
        held = table.dropped or table.samples_holdout == held_out
        fits = same_sigmas(table.sigmas.tolist(), grid)
        fits |= plan.learn_sigmas and brings_sigmas(table, grid)
        if same and samples == plan.samples and held and fits:
            return True
    return False


def free_checkpoint() -> None:
    """Let the next checkpoint have the memory of the last, to which nothing refers any more."""
    gc.collect()
    free_memory()
