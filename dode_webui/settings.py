"""The page of settings."""

from __future__ import annotations

from . import samplers

SECTION = ("dode", "D-ODE")


def add() -> None:
    """Called by the host while it builds its settings."""
    from modules import shared

    shared.opts.add_option(
        samplers.MORE_SETTING,
        shared.OptionInfo(
            False,
            "List the D- solvers one by one in the sampler menus (D-DDIM, D-PNDM, ...); "
            "D-ODE picks the best by itself. Needs Reload UI",
            section=SECTION,
        ),
    )
