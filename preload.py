"""The WebUI's hook for command line flags."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Called by the host before it reads its arguments."""
    parser.add_argument(
        "--dode-dir",
        help="folder for D-ODE tables that cannot lie beside their checkpoint (models/dode)",
        default=None,
    )
