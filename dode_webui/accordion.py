"""The accordion below the prompt: options of a run, their infotext, and a Distill button."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from dode_core.match.best import KEEP_SCHEDULE
from dode_core.match.scale import MAX_SCALE

from . import captured, host, now, options, panel, samplers, sampling, switching, watching
from .request import Request

# Tabs that are built. The HTTP API builds every script's widgets again, for their defaults alone:
# those are never on a page, and nothing is wired to them.
on_page: set[str] = set()
pending: dict[str, Any] = {}  # the txt2img accordion's widgets until the host's are there
image_lines: list[tuple[Any, Any, Any]] = []  # img2img's line, table and refresh button, likewise
refreshing: list[Callable[[Any], None]] = []  # has a widget refresh the line when it changes

ALWAYS_OF_IMAGE = (captured.PROMPT, captured.CFG, captured.STEPS, captured.DENOISE)


def build(script: Any, is_img2img: bool) -> list[Any]:
    """The widgets; their values come back to :func:`apply`."""
    import gradio as gr

    tab = "img2img" if is_img2img else "txt2img"
    with gr.Accordion(samplers.NAME, open=False, elem_id=f"{tab}_dode"):
        line = gr.HTML("", elem_id=f"{tab}_dode_now")
        with gr.Row():
            table = gr.Dropdown(
                options.menu(),
                value=options.AUTOMATIC,
                label="Table",
                allow_custom_value=True,  # an id will do, and menus change while the page is open
                elem_id=f"{tab}_dode_table",
            )
            refresh = tool_button(gr, f"{tab}_dode_refresh")
        scale = gr.Slider(
            0,
            MAX_SCALE,
            value=1.0,
            step=0.05,
            label="Strength of the correction",
            info="0 is the plain solver, 1 the table.",
            elem_id=f"{tab}_dode_scale",
        )
        keep = keep_box(gr, tab)
        pasted = gr.Markdown("", elem_id=f"{tab}_dode_pasted")
        controls = None if is_img2img else distill_controls(gr)
        refresh.click(
            fn=lambda: gr.update(choices=options.menu()), inputs=[], outputs=[table], queue=False
        )
    if tab not in on_page:
        on_page.add(tab)
        panel.menus.append(table)
        where = captured.image_widgets if is_img2img else captured.widgets
        where.update({captured.TABLE: table, captured.KEEP: keep})
        if controls is None:
            image_lines.append((line, table, refresh))
        else:
            buttons, status, cancel = controls
            panel.lines.append(line)
            pending.update(buttons=buttons, seen=[status, cancel, table, line], refresh=refresh)
    script.infotext_fields = [
        (table, paste_table), (scale, paste_scale), (keep, paste_keep), (pasted, paste_note),
    ]  # fmt: skip
    script.paste_field_names = []
    return [table, scale, keep]


def keep_box(gr: Any, tab: str) -> Any:
    """Whether the run stays on its own noise levels."""
    return gr.Checkbox(
        label=options.KEEP_LABEL,
        value=False,
        info=KEEP_SCHEDULE,
        elem_id=f"{tab}_dode_keep_schedule",
    )


def distill_controls(gr: Any) -> tuple[tuple[Any, Any], Any, Any]:
    """(buttons: for just what is set, and for any steps; status; the button that cancels)."""
    with gr.Row():
        once = gr.Button(sampling.ANY, elem_id="txt2img_dode_any")
        button = gr.Button(now.DISTILL, elem_id="txt2img_dode_distill")
        cancel = gr.Button("Cancel", elem_id="txt2img_dode_cancel", visible=False)
    status = gr.HTML("", elem_id="txt2img_dode_status")
    cancel.click(fn=watching.cancel_running, inputs=[], outputs=[], queue=False)
    return (button, once), status, cancel


def tool_button(gr: Any, elem_id: str) -> Any:
    """The host's small button with its refresh sign, an ordinary one where it has none."""
    components = host.optional("modules.ui_components")
    button = getattr(components, "ToolButton", None)
    if button is not None:
        return button("\U0001f504", elem_id=elem_id)
    return gr.Button("Refresh", elem_id=elem_id)


def capture(component: Any, elem_id: str | None) -> None:
    """Called after every component; wires ours once the host's widgets are there."""
    captured.capture(component, elem_id)
    if pending and captured.complete():
        connect(**pending)
        pending.clear()
    if image_lines and captured.complete(ALWAYS_OF_IMAGE, captured.image_widgets):
        connect_image(*image_lines.pop())
    if elem_id == captured.INFO:  # comes last; with an image the model, and its sigmas, are there
        for refresh in refreshing:
            refresh(component)


def connect(buttons: tuple[Any, Any], seen: list[Any], refresh: Any) -> None:
    """The Distill buttons, and the line that says what applies to what is set in txt2img.

    buttons: for just these settings, and for any steps. seen: status, cancel, table, line.
    """
    import gradio as gr

    known, inputs = captured.names(), captured.components()

    def start(once: bool, *values: Any) -> Iterator[list[Any]]:
        """Distill; the D-ODE tab has the pictures."""

        def make() -> Request:
            return Request(once=once, **captured.of_request(captured.settings(known, values)))

        for said, _, _, runs in watching.begin_and_watch(make):
            menu = gr.update() if runs else gr.update(choices=options.menu())
            applies = gr.update() if runs else show(*values)
            yield [said, gr.update(visible=runs), menu, applies]

    def show(*values: Any) -> str:
        return now.shown(captured.settings(known, values))

    for once, button in enumerate(buttons):
        watching.wire(button, partial(start, bool(once)), inputs, seen)
    for each in inputs:
        watching.live(each, show, inputs, [seen[-1]])
    refresh.click(fn=show, inputs=inputs, outputs=[seen[-1]], queue=False)
    refreshing.append(lambda widget: watching.live(widget, show, inputs, [seen[-1]]))
    switching.followed(
        lambda *values: [show(*values), gr.update(choices=options.menu())],
        inputs,
        [seen[-1], seen[2]],
    )


def connect_image(line: Any, table: Any, refresh: Any) -> None:
    """The line of img2img, whose runs are parts of a schedule."""
    import gradio as gr

    where = captured.image_widgets
    known, inputs = captured.names(where), captured.components(where)

    def show(*values: Any) -> str:
        return now.line(captured.of_image(known, values))

    for each in inputs:
        watching.live(each, show, inputs, [line])
    refresh.click(fn=show, inputs=inputs, outputs=[line], queue=False)
    switching.followed(
        lambda *values: [show(*values), gr.update(choices=options.menu())], inputs, [line, table]
    )


def apply(p: Any, *values: Any) -> None:
    """Note the options on the run (:func:`.options.read`); what makes no sense is said, and left
    out. A request over HTTP may give the first of them only.
    """
    chosen, problem = options.read(*values[:3])
    setattr(p, options.ON_RUN, chosen)
    if problem:
        logging.warning("D-ODE: %s.", problem)
        if hasattr(p, "comment"):
            p.comment(f"D-ODE: {problem}.")


def reset() -> None:
    """Called before the host builds its UI, again on "Reload UI": old widgets are forgotten."""
    captured.widgets.clear()
    captured.image_widgets.clear()
    on_page.clear()
    image_lines.clear()
    panel.menus.clear()
    panel.lines.clear()
    refreshing.clear()
    switching.reset()
    pending.clear()


def paste_table(params: dict[str, Any]) -> str | None:
    """The table that was chosen by hand, else the one that all of the image was made with.

    A plain text: hosts hand it on to a request over HTTP that has an infotext.
    """
    if sampling.TABLE not in params:
        return None
    choice = str(params.get(sampling.CHOICE, "")) or used(params)
    if not choice or choice == options.NONE:
        return choice or options.AUTOMATIC
    ending = f"[{options.wanted_id(choice)}]"
    known = [line for line in options.menu() if line.endswith(ending)]
    return known[-1] if known else f"{options.INSTEAD}{choice[-60:]}"


def used(params: dict[str, Any]) -> str:
    """The one table of an image; empty for none, and for several: hires pass, several cfgs."""
    matches = [params.get(key) for key in (sampling.MATCH, sampling.hires(sampling.MATCH))]
    if any(sampling.BETWEEN in str(match) for match in matches):
        return ""
    main = str(params.get(sampling.TABLE, ""))
    other = str(params.get(sampling.hires(sampling.TABLE), main))
    one = main == other and main != "none" and not main.endswith(f" {sampling.PROFILE}")
    return main if one else ""


def paste_scale(params: dict[str, Any]) -> float | None:
    """The scale, 1 where the image has none."""
    if sampling.TABLE not in params:
        return None
    return options.number(params.get(sampling.SCALE), 1.0)


def paste_keep(params: dict[str, Any]) -> bool | None:
    """Whether the image was made on its own schedule whatever table served it."""
    return params.get(sampling.KEEP) == "True" if sampling.TABLE in params else None


def paste_note(params: dict[str, Any]) -> str:
    """Which of the image's tables are not there."""
    named = [params.get(key) for key in (sampling.TABLE, sampling.hires(sampling.TABLE))]
    wanted = [str(name) for name in named if name not in (None, "none")]
    wanted = [name for name in wanted if not name.endswith(f" {sampling.PROFILE}")]
    if not wanted:
        return ""
    here = {options.table_id(each.table) for each in options.everything(host.library())}
    missing = [name for name in dict.fromkeys(wanted) if options.wanted_id(name) not in here]
    if not missing:
        return ""
    return (
        f"The image was made with {' and '.join(missing)}, which is not among the table files "
        f"here: {options.AUTOMATIC} uses what there is."
    )
