"""What D-ODE Distill shows: the table in words and as a plot."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io as comfy_io
from torch import Tensor

from ...dode_core.errors import DodeError
from ...dode_core.tables.table import LambdaTable
from .common import AnySteps
from .telling import report


def summary(table: LambdaTable) -> str:
    """What the table is worth first, then what it is for and what was learned from."""
    worth = f"{table.worth}, on noise that it did not learn from" if table.worth else ""
    what = table.title
    if not table.helps:
        what += ": no improvement found, so it samples as the plain solver does"
    noises = f"learned from {table.samples_fit} noises"
    if table.samples_holdout:
        noises += f", measured on {table.samples_holdout} others"
    noises += f"; {table.evaluations:.0f} model evaluations each"
    if table.dropped:
        noises += f"; {table.dropped} more were not finite and left out"
    return "\n".join(filter(None, [worth, what, noises]))


def plot(table: LambdaTable) -> tuple[Any, str]:
    """(the plot as a PIL image, or None and why there is none); it is never worth a table."""
    try:
        from PIL import Image

        from ...dode_core.report import plot_table, png

        return Image.open(io.BytesIO(png(plot_table(table)))).convert("RGB"), ""
    except DodeError as error:  # no matplotlib
        return None, str(error)
    except Exception as error:
        logging.exception("D-ODE: the table could not be drawn.")
        return None, f"No plot: {error}"


def to_tensor(picture: Any) -> Tensor:
    """A PIL image as IMAGE, shape (1, height, width, 3)."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def show(
    tables: Sequence[LambdaTable], text: str, drawn: tuple[Any, str], node: Any
) -> comfy_io.NodeOutput:
    """The tables, the first one's sigmas and the report; ``drawn`` is what :func:`plot` gives."""
    picture, problem = drawn
    text += f"\n{problem}" if problem else ""
    look = report(text, None if picture is None else to_tensor(picture), node)
    table = tables if len(tables) > 1 or isinstance(tables, AnySteps) else tables[0]
    return comfy_io.NodeOutput(table, tables[0].sigmas.to(torch.float32), text, ui=look)
