"""The D-ODE tab, and the watching of a distillation that it shares with the accordion."""

from __future__ import annotations

import html
import io
import logging
from collections.abc import Iterator
from typing import Any

from dode_core.errors import DodeError
from dode_core.report import plot_errors, plot_table, png
from dode_core.solve.solvers import SOLVERS, get_solver
from dode_core.tables.table import LambdaTable

from . import distill, job
from .request import BEST, LIMITS, Request, parse_steps, schedulers

CURRENT, LIST = "of the txt2img tab", "these, one a line"
# The widgets of the host that tell what the user is about to make.
PROMPT, NEGATIVE, CFG = "txt2img_prompt", "txt2img_neg_prompt", "txt2img_cfg_scale"
WIDTH, HEIGHT, STEPS = "txt2img_width", "txt2img_height", "txt2img_steps"
SCHEDULER = "txt2img_scheduler"
CAPTURED = (PROMPT, NEGATIVE, CFG, WIDTH, HEIGHT, STEPS)
SOLVER_MENU = {"Find the best": BEST, **{each.label: name for name, each in SOLVERS.items()}}
# What the tab takes from txt2img, and what it does on a host whose widgets are named otherwise.
FALLBACKS = {PROMPT: "", NEGATIVE: "", CFG: 7.0, WIDTH: 512, HEIGHT: 512}
TICK = 0.5  # seconds between two looks at a running job

captured: dict[str, Any] = {}  # the host's components by elem_id, anew with every UI


def capture(component: Any, elem_id: str | None) -> None:
    """Called after every component that the host builds."""
    if elem_id in CAPTURED or elem_id == SCHEDULER:
        captured[elem_id] = component


def tabs() -> list[tuple[Any, str, str]]:
    """The tab, for the host."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as tab, gr.Row():
        with gr.Column():
            inputs, button, cancel = controls(gr)
        with gr.Column():
            status = gr.HTML("", elem_id="dode_status")
            plot = gr.Image(
                label="Error to the converged image",
                elem_id="dode_plot",
                interactive=False,
                type="pil",
            )
            gallery = gr.Gallery(label="Before and after", elem_id="dode_gallery", columns=2)
        host_inputs = [captured.get(name) or gr.State(value) for name, value in FALLBACKS.items()]
        wire(button, run_from_tab, [*inputs, *host_inputs], [status, plot, gallery])
        cancel.click(fn=cancel_running, inputs=[], outputs=[], queue=False)
    return [(tab, "D-ODE", "dode_tab")]


def controls(gr: Any) -> tuple[list[Any], Any, Any]:
    """The tab's widgets, the buttons last.

    Labels differ from each other: the host keeps what users set by label.
    """
    gr.Markdown(
        "Distills tables for the loaded checkpoint: a few minutes of work, once for every step "
        "count and cfg that you use. Size, cfg and negative prompt are those of the txt2img tab."
    )
    names, menu = schedulers(), list(SOLVER_MENU)
    with gr.Row():
        steps = gr.Textbox(
            "4-10", label="Steps", max_lines=1, placeholder="8, 4-10, 4 6 8", elem_id="dode_steps"
        )
        scheduler = gr.Dropdown(
            names, value=names[0], label="Schedule type", elem_id="dode_scheduler"
        )
        solver = gr.Dropdown(menu, value=menu[0], label="Solver", elem_id="dode_solver")
    sigmas = gr.Checkbox(
        True,
        label="Distill the sigmas too: nearest to the converged image, some ten times the work",
        elem_id="dode_sigmas",
    )
    which = gr.Radio([CURRENT, LIST], value=CURRENT, label="Prompts", elem_id="dode_which")
    prompts = gr.Textbox("", label="Prompt list", lines=3, elem_id="dode_prompts")
    with gr.Row():
        samples = gr.Slider(
            2, 64, value=16, step=1, label="Noises to learn from", elem_id="dode_samples"
        )
        size = gr.Slider(1, 16, value=4, step=1, label="Of them at a time", elem_id="dode_batch")
        seed = gr.Number(0, label="Their seed", precision=0, elem_id="dode_seed")
    with gr.Row():
        button = gr.Button("Distill", variant="primary", elem_id="dode_distill")
        cancel = gr.Button("Cancel", elem_id="dode_cancel")
    return [solver, steps, scheduler, sigmas, samples, size, seed, which, prompts], button, cancel


def wire(button: Any, start: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Watch a job as it runs where the host has gradio's queue, else wait for its end."""
    from modules import shared

    def last(*values: Any) -> list[Any]:
        return list(start(*values))[-1]

    queued = not getattr(shared.cmd_opts, "no_gradio_queue", False)
    button.click(fn=start if queued else last, inputs=inputs, outputs=outputs)


def run_from_tab(
    solver: str,
    steps: str,
    scheduler: str,
    sigmas: bool,
    samples: float,
    size: float,
    seed: float,
    which: str,
    prompts: str,
    prompt: str,
    negative: str,
    cfg: float,
    width: float,
    height: float,
) -> Iterator[list[Any]]:
    """Distill as the tab says, or watch what is running already."""
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if which == LIST and not lines:
        yield [
            error_line("No prompt is given; write one a line, or use that of txt2img."),
            None,
            [],
        ]
        return
    yield from begin_and_watch(
        lambda: Request(
            solver=SOLVER_MENU.get(solver, solver),
            steps=parse_steps(steps),
            scheduler=scheduler,
            prompts=tuple(lines) if which == LIST else (prompt,),
            negative=negative,
            cfg=cfg,
            width=int(width),
            height=int(height),
            samples=int(samples),
            learn_sigmas=sigmas,
            seed=int(min(max(seed or 0, 0), LIMITS["seed"][1])),
            batch_size=int(size),
        )
    )


def begin_and_watch(make: Any) -> Iterator[list[Any]]:
    """[status, plot, pictures] until the end; a job that runs already is watched instead."""
    try:
        running = distill.begin(make())
    except job.Busy:
        found = job.current()
        if found is None:
            return
        running = found
    except (DodeError, TypeError, ValueError) as error:
        yield [error_line(str(error)), None, []]
        return
    while not running.ended.wait(TICK):
        yield [status_line(running), None, []]
    yield final(running)


def final(running: job.Job) -> list[Any]:
    """What is shown at the end."""
    if running.state != job.DONE:
        if running.state == job.FAILED and not isinstance(running.error, DodeError):
            logging.error("D-ODE: distillation failed", exc_info=running.error)
        return [error_line(running.status()), None, []]
    outcome: distill.Outcome = running.result
    picture, problem = plot(outcome.tables)
    lines = [*outcome.summary(), *([problem] if problem else [])]
    text = "<br>".join(html.escape(line) for line in lines)
    return [f"<div class='dode-done'>{text}</div>", picture, outcome.pictures]


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
