"""A distillation as it is seen in the browser: begun, watched, and what it left behind."""

from __future__ import annotations

import html
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

from dode_core.errors import DodeError
from dode_core.report import plot_errors, plot_table, png
from dode_core.solve.solvers import get_solver
from dode_core.tables.table import LambdaTable

from . import distill, job
from .request import Request

TICK = 0.5  # seconds between two looks at a running job
Shown = tuple[str, Any, list[Any], bool]  # status, plot, pictures, whether it still runs


def wire(button: Any, start: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Watch a job as it runs where the host has gradio's queue, else wait for its end."""
    from modules import shared

    def last(*values: Any) -> list[Any]:
        return list(start(*values))[-1]

    queued = not getattr(shared.cmd_opts, "no_gradio_queue", False)
    button.click(fn=start if queued else last, inputs=inputs, outputs=outputs)


def live(component: Any, fn: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Show a line anew whenever a widget changes."""
    change = getattr(component, "change", None)
    if change is not None:
        change(fn=fn, inputs=inputs, outputs=outputs, queue=False, show_progress="hidden")


def begin_and_watch(
    make: Callable[[], Request], begin: Callable[[Request], job.Job] = distill.begin
) -> Iterator[Shown]:
    """Until the end; a job that runs already is watched instead."""
    try:
        running = begin(make())
    except job.Busy:
        found = job.current()
        if found is None:
            return
        running = found
    except (DodeError, TypeError, ValueError) as error:
        yield error_line(str(error)), None, [], False
        return
    while not running.ended.wait(TICK):
        yield status_line(running), None, [], True
    yield final(running)


def final(running: job.Job) -> Shown:
    """What is shown at the end."""
    if running.state != job.DONE:
        if running.state == job.FAILED and not isinstance(running.error, DodeError):
            logging.error("D-ODE: distillation failed", exc_info=running.error)
        return error_line(running.status()), None, [], False
    outcome = running.result
    if not isinstance(outcome, distill.Outcome):  # a timing
        return done_line([str(outcome)]), None, [], False
    picture, problem = plot(outcome.tables)
    lines = [*outcome.summary(), *([problem] if problem else [])]
    return done_line(lines), picture, outcome.pictures, False


def plot(tables: list[LambdaTable]) -> tuple[Any, str]:
    """(PIL image of the errors, or None and why)."""
    from PIL import Image

    try:
        figure = plot_table(tables[0]) if len(tables) == 1 else plot_errors(*curves(tables))
        return Image.open(io.BytesIO(png(figure))).convert("RGB"), ""
    except DodeError as error:  # no matplotlib
        return None, str(error)


def curves(tables: list[LambdaTable]) -> tuple[dict[str, dict[int, float]], str, str]:
    """Held-out error against evaluations, plain and distilled."""
    lines: dict[str, dict[int, float]] = {}
    for table in tables:
        if table.errors is None:
            continue
        errors, label = table.errors, get_solver(table.solver).label
        plain = errors.plain_fit if errors.plain_holdout is None else errors.plain_holdout
        ours = (
            errors.distilled_fit if errors.distilled_holdout is None else errors.distilled_holdout
        )
        lines.setdefault(f"plain {label.removeprefix('D-')}", {})[len(table.stages)] = plain
        lines.setdefault(label, {})[len(table.stages)] = ours
    title = f"{tables[0].model_name}: error to the teacher on held-out noise"
    return lines, title, "RMS error"


def status_line(running: job.Job) -> str:
    """A bar and a sentence."""
    clock = running.clock
    share = 100 * clock.done / clock.total if clock.total else 0
    bar = f"<progress max='100' value='{share:.0f}' style='width: 100%'></progress>"
    return f"<div class='dode-running'>{bar}<br>{html.escape(running.status())}</div>"


def done_line(lines: list[str]) -> str:
    """What was made, a line each."""
    return f"<div class='dode-done'>{'<br>'.join(html.escape(line) for line in lines)}</div>"


def error_line(text: str) -> str:
    """A sentence that stands out."""
    return f"<div class='error'>{html.escape(text)}</div>"


def cancel_running() -> None:
    """Stop the running distillation, if there is one; its own watcher says so.

    It writes to no widget: its answer can come after the watcher's last one, and would hide it.
    """
    running = job.current()
    if running is not None:
        running.cancel()
