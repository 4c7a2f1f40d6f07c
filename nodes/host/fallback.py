"""What a user should know of a run that had no table, or not quite the right one."""

from __future__ import annotations

from ...dode_core.match.best import Choice
from ...dode_core.solve.solvers import get_solver

HOW = "Make a table with D-ODE Distill"


def warning(choice: Choice, steps: int, cfg: float | None) -> str | None:
    """A sentence or two for a person: what ran instead, and what to do; None for a good table."""
    found = choice.resolution
    run = f"{steps} steps" + ("" if cfg is None else f", cfg {cfg:g}")
    if found.table is None:
        plain = get_solver(found.solver).label.removeprefix("D-")
        why = f" ({'; '.join(choice.doubts)})" if choice.doubts else ""
        return f"No table fits this run{why}: plain {plain} sampled. {HOW} for {run}."
    made = found.table
    doubts = list(choice.doubts)
    if found.kind == "interpolated":
        doubts.insert(0, f"made for {made.steps} steps, and this run has {steps}")
    if None not in (cfg, made.cfg) and made.cfg != cfg and not found.between_cfgs:
        doubts.append(f"made at cfg {made.cfg:g}")
    if not doubts:
        return None
    return f"The table was not made for this run: {'; '.join(doubts)}. {HOW} for {run}."
