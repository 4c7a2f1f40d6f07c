"""What is drawn can be read: no two numbers of an axis lie upon each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tables import made_up

from dode_core.report import apart, plot_errors, plot_table

FLOW = (1.0, 0.9045, 0.7595, 0.5128, 0.0)
NARROW = (1.0, 0.99, 0.975, 0.96, 0.0)
TWO_DECADES = (14.6, 4.8, 1.27, 0.25, 0.0)
WIDE = (80.0, 14.6, 1.0, 0.03, 0.0)


def overlapping(fig: Any) -> list[tuple[str, str]]:
    """Pairs of tick labels of one axis that share a pixel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    found = []
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
            boxes = [
                (label.get_text(), label.get_window_extent())
                for label in labels
                if label.get_text() and label.get_visible()
            ]
            assert len(boxes) > 1 or not ax.axison
            found += [
                (a, b)
                for i, (a, box) in enumerate(boxes)
                for b, other in boxes[i + 1 :]
                if box.overlaps(other)
            ]
    return found


@pytest.mark.parametrize("sigmas", [FLOW, NARROW, TWO_DECADES, WIDE])
def test_a_table(sigmas: Sequence[float]) -> None:
    pytest.importorskip("matplotlib")
    kind = "flow" if sigmas[0] == 1 else "ve"
    assert overlapping(plot_table(made_up("ddim", sigmas, parametrization=kind))) == []


@pytest.mark.parametrize("errors", [(0.42, 0.35), (0.2, 0.09), (3.0, 0.02), (1.0, 1e-5)])
@pytest.mark.parametrize("steps", [(4, 5), (4, 5, 6, 60, 61), tuple(range(69, 101))])
def test_errors(errors: tuple[float, float], steps: tuple[int, ...]) -> None:
    pytest.importorskip("matplotlib")
    high, low = errors
    curve = {n: high * (low / high) ** (i / (len(steps) - 1)) for i, n in enumerate(steps)}
    assert overlapping(plot_errors({"plain DDIM": curve}, "title", "error")) == []


def test_what_is_apart() -> None:
    assert apart([]) == [] and apart([4]) == [4]
    assert apart({8, 4, 5}) == [4, 5, 8]
    assert apart([4, 5, 6, 100]) == [4, 100]
