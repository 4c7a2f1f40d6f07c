"""What a user should know of a run that had no table, or not quite the right one."""

from __future__ import annotations

from ...dode_core.match.best import Choice
from ...dode_core.match.resolve import CARRIED
from ...dode_core.solve.solvers import get_solver

HOW = "Make a table with D-ODE Distill"


def warning(choice: Choice, steps: int, cfg: float | None) -> str | None:
    """A sentence or two for a person: what ran instead, and what to do; None for a good table."""
    found = choice.resolution
    run = f"{steps} steps" + ("" if cfg is None else f", cfg {cfg:g}")
    if found.table is None:
        plain = get_solver(found.solver).label.removeprefix("D-")
        why = f" ({'; '.join(choice.doubts)})" if choice.doubts else ""
        how = (
            f"{found.advice[:1].upper()}{found.advice[1:]}" if found.advice else f"{HOW} for {run}"
        )
        return f"No table fits this run{why}: plain {plain} sampled. {how}."
    made = found.table
    doubts = list(choice.doubts)
    if found.kind == "interpolated":
        doubts.insert(0, f"made for {made.steps} steps, and this run has {steps}")
    if found.kind == CARRIED:
        doubts.insert(0, "made for another schedule, or nobody knows for which")
    if None not in (cfg, made.cfg) and made.cfg != cfg and not found.between_cfgs:
        doubts.append(f"made at cfg {made.cfg:g}")
    if not doubts:
        return None
    return f"The table was not made for this run: {'; '.join(doubts)}. {HOW} for {run}."
