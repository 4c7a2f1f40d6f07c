"""Plots and comparison pictures. matplotlib is imported only when something is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DodeError
from .solve.solvers import get_solver

if TYPE_CHECKING:
    from .tables.table import LambdaTable

NO_MATPLOTLIB = (
    "Plots need matplotlib: run 'pip install matplotlib'. Everything else works without."
)
DECADE, WIDE = 10, 100  # largest by smallest number of an axis: how its ticks are chosen
LABELS = 20  # that fit along a plot of errors
INK, FAINT = "#222222", "#bbbbbb"
COLORS = ("#0b6fb8", "#d1495b", "#2f9e63", "#8a5fbf", "#e08e0b", "#4c9f9f", "#8c564b", "#7f7f7f")


def figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A matplotlib figure that needs no display, and its axes. Raises :class:`DodeError`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DodeError(NO_MATPLOTLIB) from error
    fig = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = fig.subplots(1, columns)
    for ax in np.atleast_1d(axes):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=FAINT, alpha=0.35, linewidth=0.6)
    return fig, axes


def png(fig: Any) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    return buffer.getvalue()


def plot_table(table: LambdaTable) -> Any:
    """Lambda per stage over sigma, beside the errors of plain and distilled solver."""
    fig, (curve, bars) = figure(8.4, 3.4, 2)
    _lambda_curve(curve, table)
    _error_bars(bars, table)
    fig.suptitle(f"{table.model_name or 'model'}: {table.describe()}", fontsize=9, color=INK)
    return fig


def _lambda_curve(ax: Any, table: LambdaTable) -> None:
    sigma = [stage.sigma for stage in table.stages]
    for column, name in enumerate(table.column_names):
        values = table.lambdas[:, column].tolist()
        ax.plot(sigma, values, "o-", color=COLORS[column], label=name, markersize=4)
    natural = [
        (stage.sigma, stage.adams_bashforth) for stage in table.stages if stage.adams_bashforth
    ]
    if natural:
        ax.plot(*zip(*natural, strict=True), ":", color=INK, label="Adams-Bashforth 2")
    for k in table.zeroed:
        ax.plot(sigma[k], 0, "x", color=INK)
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set_xscale("log")
    readable_log(ax, "x")
    ax.invert_xaxis()
    largest = np.abs(table.lambdas.numpy()).max(initial=0)
    if largest > 5:
        ax.set_yscale("symlog", linthresh=1)
    ax.set_xlabel("sigma")
    ax.set_ylabel("lambda (0 = plain solver)")
    ax.legend(frameon=False, fontsize=8)


def _error_bars(ax: Any, table: LambdaTable) -> None:
    errors = table.errors
    if errors is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "no errors recorded", ha="center")
        return
    names, plain, ours = ["fit"], [errors.plain_fit], [errors.distilled_fit]
    if errors.plain_holdout is not None and errors.distilled_holdout is not None:
        names.append("held out")
        plain.append(errors.plain_holdout)
        ours.append(errors.distilled_holdout)
    at = np.arange(len(names))
    label = get_solver(table.solver).label
    for shift, values, name, color in (
        (-0.2, plain, "plain", FAINT),
        (0.2, ours, label, COLORS[0]),
    ):
        bars = ax.bar(at + shift, values, 0.38, label=name, color=color)
        ax.bar_label(bars, fmt="%.3g", fontsize=8)
    ax.set_xticks(at, names)
    ax.set_ylabel("RMS error to the teacher")
    ax.margins(y=0.15)
    ax.legend(frameon=False, fontsize=8)


def plot_errors(curves: Mapping[str, Mapping[int, float]], title: str, ylabel: str) -> Any:
    """Error against model evaluations, one line a name; names with "plain" are dashed."""
    fig, ax = figure(7.2, 4.6)
    colors: dict[str, str] = {}
    for name, points in curves.items():
        family = name.removeprefix("plain ").removeprefix("D-")
        if "peer" in name:
            color, style = INK, "s:"
        else:
            color = colors.setdefault(family, COLORS[len(colors) % len(COLORS)])
            style = "--" if name.startswith("plain") else "o-"
        ax.plot(list(points), list(points.values()), style, color=color, label=name, markersize=4)
    ax.set_yscale("log")
    readable_log(ax, "y")
    ax.set_xlabel("model evaluations per image (NFE)")
    ax.set_ylabel(ylabel)
    ax.set_title(title, fontsize=10)
    ax.set_xticks(apart({nfe for points in curves.values() for nfe in points}))
    ax.legend(frameon=False, fontsize=8, ncols=2)
    return fig


def readable_log(ax: Any, axis: str) -> None:
    """Ticks of a logarithmic axis whose numbers do not overlap, however narrow its range."""
    from matplotlib import ticker

    low, high = sorted(ax.get_xlim() if axis == "x" else ax.get_ylim())
    which = ax.xaxis if axis == "x" else ax.yaxis
    which.set_minor_formatter(ticker.NullFormatter())
    if low <= 0 or high / low >= WIDE:
        return
    if high / low >= DECADE:
        which.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    else:
        which.set_major_locator(ticker.MaxNLocator(4))
    which.set_minor_locator(ticker.NullLocator())
    which.set_major_formatter(ticker.FormatStrFormatter("%g"))


def apart(values: Iterable[float]) -> list[float]:
    """The values in order without those too close to the one before for a label of their own."""
    ordered = sorted(values)
    kept = ordered[:1]
    least = (ordered[-1] - ordered[0]) / LABELS if ordered else 0
    for value in ordered[1:]:
        if value - kept[-1] >= least:
            kept.append(value)
    return kept


def plot_bars(errors: Mapping[str, float], title: str, xlabel: str) -> Any:
    """Errors of one number of model evaluations: a bar a name, with its number, the first ours."""
    fig, ax = figure(5.6, 1.0 + 0.4 * len(errors))
    ax.set_axisbelow(True)
    names = list(errors)
    colors = [COLORS[0], *[FAINT] * (len(names) - 1)]
    bars = ax.barh(names, [errors[name] for name in names], 0.62, color=colors)
    ax.bar_label(bars, fmt="%.3g", padding=4, fontsize=10)
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel(xlabel)
    ax.set_title(title, fontsize=11)
    return fig


def picture_grid(rows: Mapping[str, Any], scale: int = 2, title: str = "") -> Any:
    """A labelled grid of images as a PIL image: one row a name, (n, 3, H, W) in [-1, 1] each."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(14)
    arrays = {name: to_uint8(images) for name, images in rows.items()}
    first = next(iter(arrays.values()))
    n, height, width = first.shape[0], first.shape[1] * scale, first.shape[2] * scale
    left = 12 + max(int(font.getlength(line)) for name in rows for line in name.split("\n"))
    top = 26 if title else 4
    size = (left + n * (width + 4), top + len(rows) * (height + 4))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((6, 5), title, fill=INK, font=font)
    for r, (name, images) in enumerate(arrays.items()):
        y = top + r * (height + 4)
        lines = name.split("\n")
        draw.multiline_text((6, y + height / 2 - 9 * len(lines)), name, fill=INK, font=font)
        for c, image in enumerate(images):
            tile = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(tile, (left + c * (width + 4), y))
    return canvas


def to_uint8(images: Any) -> np.ndarray:
    """(n, 3, H, W) in [-1, 1] to (n, H, W, 3) uint8."""
    array = images.detach().float().cpu().clamp(-1, 1).permute(0, 2, 3, 1).numpy()
    return np.round((array + 1) * 127.5).astype(np.uint8)


def save_figure(fig: Any, path: str | Path) -> Path:
    """Write a figure as PNG, atomically."""
    from .tables.files import write_atomically

    write_atomically(Path(path), png(fig))
    return Path(path)


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, the first to the left."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, widths, strict=True)
        return "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(pairs))

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([line(header), rule, *(line(row) for row in rows)])
