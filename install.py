"""The WebUI's install hook: fast, silent, and fine without a network.

matplotlib draws the plots; everything else works without it.
"""

from __future__ import annotations

import contextlib


def install() -> None:
    """Add matplotlib where it is missing; the host shows pip's own words if that fails."""
    try:
        import launch  # the host's; nothing to do elsewhere
    except ImportError:
        return
    if launch.is_installed("matplotlib"):
        return
    with contextlib.suppress(Exception):  # no network: no plots
        launch.run_pip("install matplotlib", "matplotlib for D-ODE plots")


install()
