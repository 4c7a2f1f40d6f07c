"""The D-ODE tab: distill with a cost that is known before, and the list of tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dode_core.errors import DodeError
from dode_core.solve.solvers import SOLVERS

from . import captured, cost, distill, listing, now, options, switching
from .request import BEST, LIMITS, Request, parse_steps
from .watching import begin_and_watch, cancel_running, error_line, live, wire

FIRST = "Choose a table first."
CURRENT, LIST = "of the txt2img tab", "these, one a line"
SOLVER_MENU = {"Find the best": BEST, **{each.label: name for name, each in SOLVERS.items()}}
OWN = 8  # widgets of the tab itself, before those of txt2img
EFFORTS = (cost.ONCE, cost.QUICK, cost.BEST)
menus: list[Any] = []  # the dropdowns that list tables, anew with every UI
lines: list[Any] = []  # the line of the txt2img accordion, likewise


def tabs() -> list[tuple[Any, str, str]]:
    """The tab, for the host."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as tab, gr.Row():
        with gr.Column():
            inputs, line = controls(gr)
            with gr.Row():
                button = gr.Button("Distill", variant="primary", elem_id="dode_distill")
                timing = gr.Button("Time it", elem_id="dode_time")
                cancel = gr.Button("Cancel", elem_id="dode_cancel", visible=False)
            status = gr.HTML("", elem_id="dode_status")
            tables = list_of_tables(gr)
        with gr.Column():
            plot = gr.Image(
                label="Error to the converged image",
                show_label=False,  # it would cover the plot's title
                elem_id="dode_plot",
                interactive=False,
                type="pil",
            )
            gallery = gr.Gallery(
                label="No table, D-ODE, 40 steps",
                show_label=False,
                elem_id="dode_gallery",
                columns=3,
                object_fit="contain",
                height="auto",
            )
        known = captured.names()
        inputs += captured.components()
        seen = [status, plot, gallery, cancel, line, *lines, *tables, *menus]
        wire(button, watched(known, len(lines), len(menus)), inputs, seen)
        wire(timing, timed(known), inputs, [status, cancel, line])
        cancel.click(fn=cancel_running, inputs=[], outputs=[], queue=False)
        for each in inputs:
            live(each, lambda *values: cost_line(known, values), inputs, [line])
        switching.followed(
            lambda *values: [cost_line(known, values), listing.overview(), listing.choices(gr)],
            inputs,
            [line, *tables],
        )
    return [(tab, "D-ODE", "dode_tab")]


def controls(gr: Any) -> tuple[list[Any], Any]:
    """The tab's widgets in the order of :func:`request_of`, and the line that says what it costs.

    Labels differ from each other: the host keeps what users set by label.
    """
    gr.Markdown(
        "Makes few steps of the loaded checkpoint end nearer to its many-step images. Once for "
        "each cfg that you use, or two that they lie between; prompt, size, cfg, schedule and "
        "shift are those of the txt2img tab."
    )
    with gr.Row():
        steps = gr.Textbox(
            "",
            label="Steps",
            max_lines=1,
            placeholder="as in txt2img; or 8, or 4-10, or 4 6 8",
            elem_id="dode_steps",
        )
        effort = gr.Radio(list(EFFORTS), value=cost.ONCE, label="Effort", elem_id="dode_effort")
    line = gr.HTML("", elem_id="dode_cost")
    with gr.Accordion("More", open=False, elem_id="dode_more"):
        menu = list(SOLVER_MENU)
        solver = gr.Dropdown(menu, value=menu[0], label="Solver", elem_id="dode_solver")
        which = gr.Radio([CURRENT, LIST], value=CURRENT, label="Prompts", elem_id="dode_which")
        prompts = gr.Textbox(
            "", label="Prompt list", lines=3, elem_id="dode_prompts", visible=False
        )
        with gr.Row():
            samples = gr.Slider(2, 64, value=16, step=1, label="Samples", elem_id="dode_samples")
            size = gr.Slider(1, 16, value=4, step=1, label="Batch size", elem_id="dode_batch")
            seed = gr.Number(0, label="Seed", precision=0, elem_id="dode_seed")

    def show_list(value: str) -> Any:
        return gr.update(visible=value == LIST)

    live(which, show_list, [which], [prompts])
    return [steps, effort, solver, samples, size, seed, which, prompts], line


def list_of_tables(gr: Any) -> list[Any]:
    """The list with its buttons: [overview, menu]."""
    with gr.Accordion("Tables", open=False, elem_id="dode_tables"):
        overview = gr.HTML(listing.overview(), elem_id="dode_overview")
        chosen = gr.Dropdown(listing.lines(), label="Chosen table", elem_id="dode_chosen")
        with gr.Row():
            refresh = gr.Button("Refresh", elem_id="dode_refresh")
            export = gr.Button("Export as preset", elem_id="dode_export")
            delete = gr.Button("Delete", elem_id="dode_delete")
        said = gr.HTML("", elem_id="dode_said")

    count, known = len(menus), captured.names()
    theirs, shown = captured.components(), list(lines)

    def after(text: str, values: Any) -> list[Any]:
        lists = [listing.overview(), listing.choices(gr), *refreshed(gr, count)]
        return [text, *lists, *[applying(known, values) for _ in shown]]

    def on_delete(line: str | None, *values: Any) -> list[Any]:
        return after(error_line(listing.delete(line)) if line else FIRST, values)

    def on_export(line: str | None) -> list[Any]:  # the choice stays
        return [error_line(listing.export(line)) if line else FIRST]

    seen = [said, overview, chosen, *menus, *shown]
    delete.click(fn=on_delete, inputs=[chosen, *theirs], outputs=seen, queue=False)
    export.click(fn=on_export, inputs=[chosen], outputs=[said], queue=False)
    refresh.click(fn=lambda *values: after("", values), inputs=theirs, outputs=seen, queue=False)
    return [overview, chosen]


def applying(known: list[str], theirs: Any) -> str:
    """The line of the accordion, from txt2img's widgets."""
    return now.shown(captured.settings(known, theirs))


def refreshed(gr: Any, count: int) -> list[Any]:
    """The menus of tables in txt2img and img2img anew."""
    return [gr.update(choices=options.menu()) for _ in range(count)]


def watched(known: list[str], line_count: int, menu_count: int) -> Any:
    """The Distill button: [status, plot, pictures, cancel, cost, line, overview, menu, menus ...].

    The line is that of the accordion, where there is one.
    """
    import gradio as gr

    def start(*values: Any) -> Iterator[list[Any]]:
        for status, picture, pictures, runs in begin_and_watch(lambda: request_of(known, values)):
            after: list[Any] = [gr.update()] * (1 + line_count + 2 + menu_count)
            if not runs:
                applies = [applying(known, values[OWN:]) for _ in range(line_count)]
                after = [cost_line(known, values), *applies]
                after += [listing.overview(), listing.choices(gr), *refreshed(gr, menu_count)]
            yield [status, picture, pictures, gr.update(visible=runs), *after]

    return start


def timed(known: list[str]) -> Any:
    """The Time it button: [status, cancel, cost]."""
    import gradio as gr

    def start(*values: Any) -> Iterator[list[Any]]:
        made = begin_and_watch(lambda: request_of(known, values), distill.begin_timing)
        for status, _, _, runs in made:
            price = gr.update() if runs else cost_line(known, values)
            yield [status, gr.update(visible=runs), price]

    return start


def cost_line(known: list[str], values: Any) -> str:
    """What every effort costs, or why this cannot be distilled."""
    try:
        return cost.choices(request_of(known, values))
    except (DodeError, TypeError, ValueError) as error:
        return error_line(str(error))


def request_of(known: list[str], values: Any) -> Request:
    """The request that the tab's widgets and the txt2img tab's make. Raises :class:`DodeError`."""
    steps, effort, solver, samples, size, seed, which, prompts, *theirs = values
    solver = str(solver)
    current = captured.settings(known, theirs)
    lines = [line.strip() for line in (prompts or "").splitlines() if line.strip()]
    if which == LIST and not lines:
        raise DodeError("No prompt is given; write one a line, or use that of txt2img.")
    txt2img = captured.of_request(current)
    if str(steps).strip():
        txt2img["steps"] = parse_steps(steps)
    if which == LIST:
        txt2img["prompts"] = tuple(lines)
    return Request(
        solver=SOLVER_MENU.get(solver, solver),
        samples=int(samples),
        learn_sigmas=effort != cost.QUICK,
        once=effort == cost.ONCE,
        seed=int(min(max(seed or 0, 0), LIMITS["seed"][1])),
        batch_size=int(size),
        **txt2img,
    )
