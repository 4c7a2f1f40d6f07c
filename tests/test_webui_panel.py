"""Tab, accordion, infotext, grid and hooks, with a gradio that only records what is built."""

from __future__ import annotations

import argparse
import builtins
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tables import made_up
from webui_host import Host, a_profile, guided

import dode_core as dode
from dode_core.fit import few_step
from dode_core.fit.steady import EVALUATIONS
from dode_core.shelf import save_profile, stamped_profile
from dode_core.tables.identity import file_fingerprint
from dode_webui import (
    accordion,
    captured,
    cost,
    grid,
    host,
    job,
    listing,
    now,
    options,
    panel,
    sampling,
    switching,
)
from dode_webui.options import AUTOMATIC

ROOT = Path(__file__).resolve().parent.parent
EXACT = "exact table; 50% closer to the many-step image than plain DDIM"  # of a made-up table
OURS = {"Dropdown": AUTOMATIC, "Checkbox": False}  # the accordion's own widgets
HOST_WIDGETS = {
    captured.PROMPT: "a fox", captured.NEGATIVE: "", captured.CFG: 2.0, captured.WIDTH: 64,
    captured.HEIGHT: 64, captured.STEPS: 4,
}  # fmt: skip


class Component:
    """A widget: what it was made with, and what its events call."""

    def __init__(self, kind: str, *args: Any, **kwargs: Any) -> None:
        self.kind, self.args, self.options, self.events = kind, args, kwargs, []
        self.changes: list[Any] = []

    def __enter__(self) -> Component:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def click(self, fn: Any, inputs: Any, outputs: Any, queue: bool = True) -> None:
        self.events.append((fn, inputs, outputs))

    def change(self, fn: Any, inputs: Any, outputs: Any, queue: bool, show_progress: str) -> None:
        self.changes.append((fn, inputs, outputs))


@pytest.fixture
def built(webui: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Component]]:
    """Every component that is built, in order."""
    made: list[Component] = []
    gradio = ModuleType("gradio")

    def maker(kind: str) -> Any:
        def make(*args: Any, **kwargs: Any) -> Component:
            made.append(Component(kind, *args, **kwargs))
            return made[-1]

        return make

    kinds = "Blocks Row Column Accordion Dropdown Button Slider Markdown HTML Image Gallery Textbox"
    for kind in (*kinds.split(), "Checkbox", "Radio", "Number", "State"):
        setattr(gradio, kind, maker(kind))
    gradio.update = lambda **kwargs: {"__type__": "update", **kwargs}
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    if webui.kind == "a1111":
        webui.modules["modules.ui_components"].ToolButton = maker("ToolButton")
    accordion.reset()
    yield made
    accordion.reset()


def of(built: list[Component], elem_id: str) -> Component:
    (found,) = [each for each in built if each.options.get("elem_id") == elem_id]
    return found


def keep(host: Host, *tables: dode.LambdaTable) -> None:
    dode.save_tables(host.sidecar, tables)


def test_the_accordion(webui: Host, built: list[Component]) -> None:
    """The script's values are a run's options; the button waits for the host's widgets."""
    script = SimpleNamespace()
    inputs = accordion.build(script, False)
    ids = ["txt2img_dode_table", "txt2img_dode_scale", "txt2img_dode_keep_schedule"]
    assert [each.options["elem_id"] for each in inputs] == ids
    assert [field[0].options["elem_id"] for field in script.infotext_fields][:3] == ids
    assert inputs[-1].options["value"] is False
    button, once = of(built, "txt2img_dode_distill"), of(built, "txt2img_dode_any")
    for elem_id in (*HOST_WIDGETS, "txt2img_other", None):
        assert not button.events and not once.events
        accordion.capture(Component(str(elem_id)), elem_id)
        if elem_id == captured.STEPS:
            break
    for each in (button, once):
        ((_, wired, _),) = each.events
        assert [widget.kind for widget in wired] == [*captured.CAPTURED, "Dropdown", "Checkbox"]
    assert all(each.changes for each in wired), "the line follows every one of them"
    accordion.build(SimpleNamespace(), True)
    ids = [each.options["elem_id"] for each in built if each.options.get("elem_id")]
    assert len(ids) == len(set(ids)), "img2img has ids of its own"


def test_what_is_built_for_its_defaults_alone_is_wired_to_nothing(
    webui: Host, built: list[Component]
) -> None:
    """Hosts build every script's widgets again, twice, when their HTTP API starts: an event then
    answers with as many values as it has widgets all the same, each in its own place.
    """
    accordion.build(SimpleNamespace(), False)
    accordion.build(SimpleNamespace(), True)
    ((run, _, outputs),) = tab(webui, built).events
    shown = list(built)
    for _ in range(2):
        for is_img2img in (False, True):
            accordion.build(SimpleNamespace(), is_img2img)
    accordion.capture(Component(captured.INFO), captured.INFO)
    assert len(panel.menus) == 2 and len(panel.lines) == 1 and not accordion.pending
    for seen in run(*VALUES, *TXT2IMG):
        assert len(seen) == len(outputs)
    ids = [each.options["elem_id"] for each in outputs]
    answer = dict(zip(ids, seen, strict=True))
    assert answer["txt2img_dode_now"].startswith("<div class='dode-now'>")
    assert answer["dode_overview"].startswith("<table")
    for name in ("txt2img_dode_table", "img2img_dode_table"):
        assert set(answer[name]) == {"__type__", "choices"}, "what is chosen stays"
    ((delete, inputs, outputs),) = of(shown, "dode_delete").events
    line = options.menu()[-1]
    given = [*TXT2IMG]
    given[captured.names().index(captured.TABLE)] = line  # the very table is chosen there as well
    assert len(inputs) == 1 + len(given)
    answer = dict(
        zip([each.options["elem_id"] for each in outputs], delete(line, *given), strict=True)
    )
    assert "the chosen table is not here" in answer["txt2img_dode_now"]


def test_reload_ui_forgets_old_widgets(webui: Host, built: list[Component]) -> None:
    for turn in range(2):
        built.clear()
        accordion.reset()
        accordion.build(SimpleNamespace(), False)
        for elem_id in HOST_WIDGETS:
            accordion.capture(Component(f"turn {turn}"), elem_id)
        ((_, wired, _),) = of(built, "txt2img_dode_distill").events
        assert {each.kind for each in wired[:-2]} == {f"turn {turn}"} and len(panel.menus) == 1


def set_up(webui: Host, sampler: str = "D-ODE", **more: Any) -> list[Any]:
    """The host's widgets are built; what is set in them, in their order."""
    set_to = {**more, captured.SAMPLER: sampler, captured.DISTILLED: 5.0, **HOST_WIDGETS}
    if webui.kind != "classic":
        set_to[captured.SCHEDULER] = "Karras"
    else:
        set_to[captured.SAMPLER] = f"{sampler} Karras"
    for elem_id in set_to:
        accordion.capture(Component(elem_id), elem_id)
    return [{**captured.FALLBACKS, **set_to}[name] for name in captured.names()]


def test_the_distill_button_of_the_accordion(webui: Host, built: list[Component]) -> None:
    for elem_id in (captured.SAMPLER, captured.SCHEDULER, captured.DISTILLED):
        if webui.kind != "classic" or elem_id == captured.SAMPLER:
            accordion.capture(Component(elem_id), elem_id)
    accordion.build(SimpleNamespace(), False)
    values = set_up(webui)[: len(captured.names())]
    ((run, inputs, outputs),) = of(built, "txt2img_dode_distill").events
    values = given_for(inputs, values)
    assert [each.options["elem_id"] for each in outputs] == [
        "txt2img_dode_status", "txt2img_dode_cancel", "txt2img_dode_table", "txt2img_dode_now",
    ]  # fmt: skip
    assert of(built, "txt2img_dode_cancel").options["visible"] is False
    *before, (status, cancel, menu, line) = run(*values)
    assert all(each[1]["visible"] for each in before), "Cancel is there while it runs"
    assert "4 steps" in status and "saved in checkpoints/model.dode.json" in status
    assert cancel["visible"] is False and webui.sidecar.exists()
    assert any("4 steps, cfg 2: " in each for each in menu["choices"])
    assert "exact table" in line
    assert "Now pick D-ODE as sampling method" in status


def test_one_click_serves_both_passes(webui: Host, built: list[Component]) -> None:
    """A table for the main pass alone: the line names the hires pass; one click mends it."""
    accordion.build(SimpleNamespace(), False)
    hires = {captured.HIRES: True, captured.HIRES_STEPS: 0, captured.DENOISE: 0.5}
    set_to = set_up(webui, **hires)
    ((run, inputs, _),) = of(built, "txt2img_dode_any").events
    kinds = [each.kind for each in inputs]
    given = given_for(inputs, set_to)
    given[kinds.index(captured.STEPS)] = 6
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    how = {"cfg_scale": 2.0, "enable_hr": True, "denoising_strength": 0.5}
    how |= {} if webui.kind == "classic" else {"scheduler": "Karras"}
    how |= {"hr_cfg": 2.0} if webui.kind in ("forge", "reforge") else {}
    main = webui.txt2img(6, name, **{**how, "enable_hr": False}).sigmas.tolist()
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    keep(webui, made_up("ddim", main, model_fingerprint=mark, cfg=2.0))
    (show,) = {fn for fn, _, _ in of_kind(inputs, captured.STEPS).changes}
    line = show(*given)
    assert f"{EXACT}. Hires pass (6 steps at denoise 0.5): no table" in line
    assert f"{sampling.ANY} serves both passes" in line and f"{sampling.ANY}: at most" in line
    note = webui.txt2img(6, name, **how).extra_generation_params["D-ODE hires note"]
    assert note.startswith("The hires pass (6 steps at denoise 0.5) has no table")
    assert sampling.ANY in note
    *_, (status, _, _, after) = run(*given)
    assert "error" not in status
    assert f"{EXACT}. Hires pass (6 steps at denoise 0.5): distilled once" in after
    assert "any steps and schedule, img2img and hires too, cfg 2" in status
    assert "any steps, cfg 2" in listing.overview()
    (entry, *_) = listing.lines()
    assert entry.startswith("any steps, cfg 2: model.cfg2-")
    params = webui.txt2img(6, name, **how).extra_generation_params
    assert params["D-ODE hires match"] == "profile" and "D-ODE hires note" not in params
    assert "copy checkpoints/model.cfg2-" in listing.export(entry)
    assert listing.delete(entry) == f"Deleted: {entry}." and not listing.profiles()
    assert "Hires pass" in show(*given) and webui.sidecar.exists()
    given[kinds.index(captured.HIRES)] = False
    assert "Hires pass" not in show(*given)


def of_kind(components: list[Component], kind: str) -> Component:
    (found,) = [each for each in components if each.kind == kind]
    return found


def tab(webui: Host, built: list[Component]) -> Component:
    """The tab's button."""
    TXT2IMG[:] = set_up(webui)
    ((_, title, elem_id),) = panel.tabs()
    assert (title, elem_id) == ("D-ODE", "dode_tab")
    return of(built, "dode_distill")


VALUES = ["4", cost.QUICK, "D-DDIM", 4, 4, 0, panel.CURRENT, ""]
TXT2IMG: list[Any] = []


def test_the_tab(webui: Host, built: list[Component]) -> None:
    accordion.build(SimpleNamespace(), True)
    ((run, inputs, outputs),) = tab(webui, built).events
    assert len(inputs) == len(VALUES) + len(TXT2IMG)
    labels = [each.options["label"] for each in built if "label" in each.options]
    assert len(labels) == len(set(labels)), "the host keeps what users set by label"
    seen = list(run(*VALUES, *TXT2IMG))
    assert all(len(each) == len(outputs) for each in seen)
    status, plot, pictures, cancel, price, overview, chosen, menu = seen[-1]
    assert "D-DDIM, 4 steps" in status and "saved in" in status
    assert plot.size[0] > 300
    captions = [caption for _, caption in pictures]
    assert captions == ["4 steps, no table", "4 steps, D-DDIM", "40 steps, no table"]
    assert of(built, "dode_gallery").options["columns"] == 3
    assert cancel["visible"] is False and "Quick: at most" in price
    assert "4 steps, cfg 2" in overview and len(chosen["choices"]) == 1
    assert len(menu["choices"]) == 3


def test_the_step_count_is_that_of_txt2img(webui: Host, built: list[Component]) -> None:
    ((run, _, _),) = tab(webui, built).events
    status = list(run("", *VALUES[1:], *TXT2IMG))[-1][0]
    assert "D-DDIM, 4 steps" in status


def test_the_cost_is_known_before_the_click(webui: Host, built: list[Component]) -> None:
    """As many evaluations as are made, at most; minutes once one evaluation was timed."""
    tab(webui, built)
    ((line, inputs, _),) = of(built, "dode_samples").changes
    assert len(inputs) == len(VALUES) + len(TXT2IMG)
    said = line(*VALUES, *TXT2IMG)
    assert "Any steps: 4 samples are too few to serve any number of steps; use 8 or more" in said
    assert "about" not in said and "press Time it" in said and not webui.log
    announced = int(said.split("Quick: at most ")[1].split(" ")[0].replace(",", ""))
    ((run, _, _),) = of(built, "dode_distill").events
    list(run("4", cost.QUICK, "D-DDIM", 4, 1, 0, panel.CURRENT, "", *TXT2IMG))
    ran = job.current()
    look = EVALUATIONS + few_step.evaluations(4, 4)  # at the model, before the work
    assert ran is not None and ran.clock.total + look == announced
    pictures = 4 + 4 + 40
    announced -= few_step.FINEST * 4  # of a model that seems to be few-step
    assert 0.8 * announced < len(webui.log) - pictures <= announced
    ((timing, _, _),) = of(built, "dode_time").events
    webui.log.clear()
    *_, (status, cancel, price) = timing(*VALUES, *TXT2IMG)
    assert "One evaluation takes" in status and cancel["visible"] is False
    assert len(webui.log) == 2 and "evaluations, about" in price
    assert "multiples of 8" in line(*VALUES, *TXT2IMG[:3], 100, *TXT2IMG[4:])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        (
            {"s_min_uncond": 4.0, "s_min_uncond_all": True},
            "without guidance (NGMS 4, all steps), and take less.",
        ),
        (
            {"skip_early_cond": 0.25},
            "(Skip Early CFG 0.25): where that is the one that Time it times, the others",
        ),
    ],
)
def test_evaluations_without_guidance_are_named(
    settings: dict[str, Any], expected: str, webui: Host, built: list[Component]
) -> None:
    """An evaluation is counted as one, whether it takes two passes or one."""
    tab(webui, built)
    ((line, _, _),) = of(built, "dode_samples").changes
    webui.shared.opts.data |= settings
    said = line(*VALUES, *TXT2IMG)
    assert expected in said and ("without guidance" in said) == bool(settings)


def test_now(webui: Host, built: list[Component]) -> None:
    """Exact, carried over, none; another sampling method; before a model is loaded."""
    set_up(webui)
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    settings = captured.settings(captured.names(), set_up(webui)) | {"steps": 6}
    assert "no table, so plain DPM++ 2M runs" in now.line(settings)
    sigmas = webui.txt2img(6, name).sigmas.tolist()
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    keep(webui, made_up("ddim", sigmas, model_fingerprint=mark, cfg=2.0))
    assert "6 steps, cfg 2" in now.line(settings) and "exact table; 50%" in now.line(settings)
    assert "exact table; made at cfg 2, this run uses 5." in now.line(settings | {"cfg": 5.0})
    assert "carried over" in now.line(settings | {"steps": 5})
    keep(webui, made_up("ddim", sigmas, model_fingerprint=mark, cfg=5.0))
    assert "exact table between two cfgs." in now.line(settings | {"cfg": 4.0})
    assert "no table" in now.line(settings | {"steps": 20})
    assert "now that is &lt;Euler a&gt;" in now.line(settings | {"sampler": "<Euler a>"})
    webui.sd_models.model_data.sd_model = SimpleNamespace()  # as Forge before the first run
    webui.shared.opts.data["sd_model_checkpoint"] = "model"
    assert "there is a table for 6 steps" in now.line(settings)
    who = host.identity(upcoming=True)
    profile = stamped_profile(a_profile(), who, 2.0, 0)  # serves whatever sigmas there will be
    save_profile(host.library(), profile, who)
    assert "distilled once for any number of steps" in now.line(settings)
    hires = {"steps": 6, "denoise": 0.5, "cfg": 3.0}
    said = now.line(settings | {"hires": hires})
    assert "Hires pass (6 steps at denoise 0.5, cfg 3): distilled once" in said


def test_now_of_a_hires_pass_with_settings_of_its_own(webui: Host, built: list[Component]) -> None:
    """Its cfg, schedule and sampling method are those that it will run with."""
    on = {captured.HIRES: True, captured.HIRES_STEPS: 6, captured.DENOISE: 0.5}

    def said(sampler: str = "D-ODE", **own: Any) -> str:
        values = set_up(webui, sampler, **on, **own)
        return now.line(captured.settings(captured.names(), values))

    same = {captured.HIRES_SAMPLER: "Use same sampler", captured.HIRES_CFG: 2.0}
    same[captured.HIRES_SCHEDULER] = "Use same scheduler"
    assert "Hires pass (6 steps at denoise 0.5): no table" in said(**same)
    assert "Hires pass" not in said(**same | {captured.HIRES_SAMPLER: "Euler"})
    other = said("Euler a", **same | {captured.HIRES_SAMPLER: "D-ODE"})
    assert "now that is Euler a" in other and "Hires pass (6 steps" in other
    who = host.identity(upcoming=True)
    save_profile(host.library(), stamped_profile(a_profile(), who, 2.0, 0), who)
    ready = said(**same)
    assert "(6 steps at denoise 0.5): distilled once" in ready and "made at cfg" not in ready
    another = said(**same | {captured.HIRES_CFG: 3.0})
    assert (
        "(6 steps at denoise 0.5, cfg 3): distilled once for any number of steps; made at "
        in (another)
        and "this run uses 3." in another
    )


def test_the_line_is_new_with_every_image(webui: Host, built: list[Component]) -> None:
    """Forge loads a model when the first image is made; only then its sigmas are known."""
    accordion.build(SimpleNamespace(), False)
    values = set_up(webui)
    text = Component(captured.INFO)
    accordion.capture(text, captured.INFO)
    ((show, inputs, (line,)),) = text.changes
    assert line is of(built, "txt2img_dode_now")
    assert "no table, so plain DPM++ 2M runs" in show(*given_for(inputs, values))


def test_the_line_follows_the_menu_of_checkpoints(webui: Host, built: list[Component]) -> None:
    """Before the host has noted the click itself; with the tables of the checkpoint."""
    accordion.build(SimpleNamespace(), False)
    values = set_up(webui)
    other = webui.checkpoint.with_name("other.safetensors")
    other.write_bytes(b"other weights " + b"y" * 5000)
    webui.sd_models.checkpoint_aliases["other"] = SimpleNamespace(filename=str(other))
    table = made_up("ddim", model_fingerprint=f"file:{file_fingerprint(other)}", cfg=2.0)
    dode.save_tables(other.with_name("other.dode.json"), [table])
    menu = Component("checkpoints")
    switching.capture(Component("width"), captured.WIDTH)
    switching.capture(menu, captured.CHECKPOINT)
    again = Component("the same, made anew when its entries change")
    switching.capture(again, captured.CHECKPOINT)
    ((switched, inputs, outputs),) = menu.changes
    assert inputs[-1] is menu and not again.changes
    assert [each.options["elem_id"] for each in outputs] == [
        "txt2img_dode_now", "txt2img_dode_table",
    ]  # fmt: skip
    given = given_for(inputs[:-1], values)
    at_steps = [each.kind for each in inputs[:-1]].index(captured.STEPS)
    given[at_steps] = table.steps
    line, tables = switched(*given, "model")
    assert "no table" in line and len(tables["choices"]) == 2
    line, tables = switched(*given, "other")
    assert "there is a table for 4 steps" in line and len(tables["choices"]) == 3
    assert host.is_switching() is False, "only while that click is answered"
    assert "no table" in switched(*given, '{"a text": "of all settings"}')[0]
    webui.shared.opts.data["sd_model_checkpoint"] = "other"
    if webui.kind == "forge":
        info = webui.sd_models.checkpoint_aliases["other"]
        webui.sd_models.model_data.forge_loading_parameters = {"checkpoint_info": info}
    assert "there is a table for 4 steps" in switched(*given, '{"a text": "of all settings"}')[0]


def test_the_tab_follows_the_menu_of_checkpoints(webui: Host, built: list[Component]) -> None:
    """Its list of tables, the menu below it, which forgets its choice, and the cost."""
    keep(webui, made_up("ddim", model_fingerprint=f"file:{file_fingerprint(webui.checkpoint)}"))
    other = webui.checkpoint.with_name("other.safetensors")
    other.write_bytes(b"other weights " + b"y" * 5000)
    webui.sd_models.checkpoint_aliases["other"] = SimpleNamespace(filename=str(other))
    table = made_up("ipndm", model_fingerprint=f"file:{file_fingerprint(other)}")
    dode.save_tables(other.with_name("other.dode.json"), [table])
    panel.tabs()
    menu = Component("checkpoints")
    switching.capture(menu, captured.CHECKPOINT)
    ((switched, inputs, outputs),) = menu.changes
    assert [each.options["elem_id"] for each in outputs] == [
        "dode_cost", "dode_overview", "dode_chosen",
    ]  # fmt: skip
    assert inputs[-1] is menu and "D-DDIM" in of(built, "dode_overview").args[0]
    price, overview, chosen = switched(*VALUES, "other")
    assert "evaluations" in price and "D-PNDM" in overview and "D-DDIM" not in overview
    (line,) = chosen["choices"]
    assert options.table_id(table) in line and chosen["value"] is None
    _, overview, _ = switched(*VALUES, "model")
    assert "D-DDIM" in overview and "D-PNDM" not in overview


def test_now_of_a_table_that_was_chosen(webui: Host, built: list[Component]) -> None:
    """What is chosen by hand goes before what would be found."""
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    values = set_up(webui)
    settings = captured.settings(captured.names(), values) | {"steps": 6}
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    mine = made_up("ddim", webui.txt2img(6, name).sigmas.tolist(), model_fingerprint=mark, cfg=2.0)
    keep(webui, mine)

    def said(table: str, **changes: Any) -> str:
        return now.line({**settings, **changes, "table": table})

    entry = next(line for line in options.menu() if line.startswith("6 steps"))
    assert f": {EXACT}." in said(AUTOMATIC) and "chosen table (exact table)" in said(entry)
    assert "set to &quot;None&quot;, so plain DPM++ 2M runs" in said(options.NONE)
    assert "cannot serve this run" in said(entry, steps=40)
    assert "the chosen table is not here, so plain" in said("0badc0de")
    assert f": {EXACT}." in said(f"{options.INSTEAD}0badc0de")


def test_the_schedule_is_kept(webui: Host, built: list[Component]) -> None:
    """A table with sigmas of its own serves the run, or, with the box ticked, does not: the line,
    the run and its infotext agree; and a profile serves both.
    """
    values = set_up(webui)
    settings = captured.settings(captured.names(), values) | {"steps": 4}
    kept = settings | {"keep_schedule": True}
    how = {"sampler": "D-ODE Karras" if webui.kind == "classic" else "D-ODE", "cfg_scale": 2.0}
    on = options.read(AUTOMATIC, 1.0, True)[0]
    first = webui.txt2img(4, **how)
    who, own = host.identity(upcoming=True), [*first.sigmas.tolist()]
    own[1:-1] = [0.8 * sigma for sigma in own[1:-1]]
    learned = made_up(
        "ddim", own, learned_sigmas=True, cfg=2.0, model_fingerprint=who.fingerprint,
        asked_sigmas=tuple(first.sigmas.tolist()),
    )  # fmt: skip
    keep(webui, learned)
    assert "exact table" in now.line(settings) and "no table" in now.line(kept)
    entry = options.menu()[-1]
    assert "cannot serve this run" in now.line(kept | {"table": entry})
    pinned = webui.txt2img(4, **how, dode_options=options.read(entry, 1.0, True)[0])
    said = pinned.extra_generation_params["D-ODE note"]
    assert "with Keep the schedule on: it has noise levels of its own" in said
    without = webui.txt2img(4, **how, dode_options=on)
    assert params(without)["D-ODE match"] == "uncalibrated"
    assert without.latent.equal(first.latent)

    profile = stamped_profile(a_profile(), who, 2.0, 0)
    save_profile(host.library(), profile, who)
    assert "distilled once" in now.line(kept)
    image = webui.txt2img(4, **how, dode_options=on)
    assert params(image)["D-ODE match"] == "profile"
    assert params(image)[sampling.KEEP] == "True" and accordion.paste_keep(params(image)) is True
    made = profile.table(sigmas=image.sigmas)
    assert torch.allclose(made.sigmas, image.sigmas.double())
    ours = dode.sample(guided(webui, 2.0), image.start, made.sigmas, table=made, disable=True)
    torch.testing.assert_close(image.latent, ours, rtol=1e-4, atol=1e-4)
    off = webui.txt2img(4, **how)
    assert sampling.KEEP not in params(off) and accordion.paste_keep(params(off)) is False
    assert not off.latent.equal(image.latent)
    webui.sd_models.model_data.sd_model.sd_checkpoint_info = None  # no sigmas before the first run
    webui.shared.opts.data["sd_model_checkpoint"] = "model"
    assert "there is a table for 4 steps" in now.line(settings)
    assert "there is a table" not in now.line(kept) and "distilled once" in now.line(kept)


def test_what_is_no_choice_for_the_schedule_is_said(webui: Host) -> None:
    chosen, problem = options.read(AUTOMATIC, 1.0, "yes")
    assert problem == "Keep the schedule is 'yes', not true or false; it is off"
    assert chosen.keep_schedule is False and chosen.problem == problem


def test_now_of_image_to_image(webui: Host, built: list[Component]) -> None:
    """The part of the schedule that is run, in the host's own count of steps."""
    accordion.build(SimpleNamespace(), True)
    set_to = {captured.PROMPT: "a fox", captured.CFG: 2.0, captured.STEPS: 6}
    if webui.kind == "classic":
        set_to[captured.SAMPLER] = "D-ODE Karras"
    else:
        set_to |= {captured.SAMPLER: "D-ODE", captured.SCHEDULER: "Karras"}
    set_to[captured.DENOISE] = 0.5
    for name in set_to:
        accordion.capture(Component(name), name.replace("txt2img", "img2img"))
    line = of(built, "img2img_dode_now")
    ((show, inputs, (shown,)), *_) = captured.image_widgets[captured.STEPS].changes
    assert shown is line and not captured.widgets
    values = [set_to.get(each.kind, OURS.get(each.kind)) for each in inputs]
    assert "6 steps at denoise 0.5, cfg 2, Karras: no table" in show(*values)
    sampler = str(set_to[captured.SAMPLER])
    whole = webui.txt2img(6, sampler).sigmas.tolist()
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    keep(webui, made_up("ddim", whole, model_fingerprint=mark, cfg=2.0))
    assert ": part of a longer table." in show(*values)
    webui.shared.opts.data["img2img_fix_steps"] = True  # now 6 steps of 12 are run
    assert "part of a longer table" not in show(*values)
    at_denoise = [each.kind for each in inputs].index(captured.DENOISE)
    for denoise in (0, 1):
        values[at_denoise] = denoise
        assert f"6 steps at denoise {denoise}, cfg 2" in show(*values)


def test_now_of_a_flow_model(webui: Host, built: list[Component]) -> None:
    """Its sigmas are not known before a run; what was made at another distilled cfg is."""
    model = webui.sd_models.model_data.sd_model
    values = set_up(webui)
    settings = captured.settings(captured.names(), values) | {"distilled_cfg_scale": 3.5}
    model.use_distilled_cfg_scale = True
    model.sd_checkpoint_info = None  # as before the first run: no sigmas
    webui.shared.opts.data["sd_model_checkpoint"] = "model"
    assert "4 steps, cfg 2, distilled cfg 3.5, Karras: no table" in now.line(settings)
    who = host.identity(upcoming=True, distilled=3.5)
    keep(webui, made_up("ddim", cfg=2.0, model_fingerprint=who.fingerprint))
    other = settings | {"distilled_cfg_scale": 5.0}
    assert now.line(settings).endswith("it is used if it fits.</div>")
    assert "if it fits; made with distilled cfg 3.5, this run has 5." in now.line(other)
    save_profile(host.library(), stamped_profile(a_profile(), who, 2.0, 0), who)
    assert now.line(settings).endswith("distilled once for any number of steps.</div>")
    assert "steps; made with distilled cfg 3.5, this run has 5." in now.line(other)
    assert "made at cfg 2, this run uses 4" in now.line(settings | {"cfg": 4.0})
    save_profile(host.library(), stamped_profile(a_profile(), who, 5.0, 0), who)
    assert "made at cfg" not in now.line(settings | {"cfg": 4.0})  # both serve it, mixed
    assert "made at cfg 5, this run uses 6" in now.line(settings | {"cfg": 6.0})
    hires = {"steps": 6, "denoise": 0.5, "distilled_cfg_scale": 5.0}
    said = now.line(settings | {"hires": hires})
    assert "(6 steps at denoise 0.5, cfg 2, distilled cfg 5): distilled once" in said


@pytest.mark.parametrize("shift", [None, 3.0])
def test_the_line_of_a_flow_model_is_what_its_run_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k_diffusion_sampling: ModuleType,
    shift: float | None,
) -> None:  # fmt: skip
    """With a table and a profile: whichever the run takes, at the shift that the run will set."""
    from webui_host import install

    from dode_webui import samplers

    webui = install("reforge", tmp_path, flow=True)
    try:
        samplers.register()
        webui.sd_models.model_data.sd_model.use_shift = shift is not None
        settings = {
            "prompt": "a fox", "negative": "", "cfg": 2.0, "width": 64, "height": 64, "steps": 4,
            "scheduler": "Automatic", "sampler": "D-ODE", "distilled_cfg_scale": 3.0, "hires": None,
            "table": AUTOMATIC, "keep_schedule": False,
        }  # fmt: skip

        def said_and_done(**changes: Any) -> tuple[str, str]:
            asked = settings | changes
            before = webui.predictor.sigmas
            line = now.line(asked)
            assert webui.predictor.sigmas is before, "another run may be using them"
            names = ("distilled_cfg_scale", "scheduler")
            p = webui.txt2img(
                asked["steps"], cfg_scale=asked["cfg"], **{name: asked[name] for name in names}
            )
            return line, p.extra_generation_params["D-ODE match"]

        grid = webui.txt2img(4, scheduler="Automatic", distilled_cfg_scale=3.0).sigmas
        webui.predictor.set_parameters(shift=1.0)  # as before the first run
        who = host.identity(upcoming=True, distilled=3.0)
        keep(webui, made_up("ddim", grid, parametrization="flow", cfg=2.0,
                            model_fingerprint=who.fingerprint))  # fmt: skip
        save_profile(host.library(), stamped_profile(a_profile("flow"), who, 2.0, 0), who)
        line, match = said_and_done()
        assert "exact table" in line and match == "exact"
        line, match = said_and_done(scheduler="Karras")
        assert "distilled once" in line and match == "profile"
        line, match = said_and_done(distilled_cfg_scale=5.0)
        if shift is None:  # not this model's
            assert "exact table" in line and match == "exact"
        else:
            assert "made with shift 3, this run has 5" in line and match == "profile"
        line, match = said_and_done(steps=7)
        assert "distilled once" in line and match == "profile"
    finally:
        webui.remove()


def test_a_table_and_a_profile_of_a_model_that_is_not_loaded(
    webui: Host, built: list[Component]
) -> None:
    """Its sigmas tell which of the two serves; both are named."""
    webui.sd_models.model_data.sd_model = SimpleNamespace()
    webui.shared.opts.data["sd_model_checkpoint"] = "model"
    values = set_up(webui)
    settings = captured.settings(captured.names(), values) | {"distilled_cfg_scale": 3.5}
    print_ = f"{host.identity(upcoming=True).fingerprint} shift:3.5"
    keep(webui, made_up("ddim", cfg=2.0, model_fingerprint=print_))
    who = host.identity(upcoming=True)
    profile = replace(stamped_profile(a_profile(), who, 2.0, 0), model_fingerprint=print_)
    save_profile(host.library(), profile, who)
    both = "there is a table for 4 steps; it is used if it fits, else what was distilled once for"
    assert now.line(settings).endswith(f"{both} any number of steps.</div>")
    another = now.line(settings | {"distilled_cfg_scale": 5.0})
    doubted = "distilled once for any number of steps; made with shift 3.5, this run has 5."
    assert f": {doubted}" in another
    assert "distilled once for any number of steps.</div>" in now.line(settings | {"steps": 7})


def given_for(inputs: list[Component], values: list[Any]) -> list[Any]:
    """What the host's widgets are set to, for an event that has the menu of tables as well."""
    known = dict(zip(captured.names(), values, strict=False))
    return [known.get(each.kind, OURS.get(each.kind)) for each in inputs]


def test_the_list_of_tables(webui: Host, built: list[Component]) -> None:
    """Deleted from its file alone; exported as a preset that another machine takes."""
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    facts: dict[str, Any] = {
        "model_fingerprint": mark,
        "model_name": "m",
        "samples_fit": 12,
        "seed": 0,
    }
    facts |= {"samples_fit": 12, "samples_holdout": 4, "latent_shape": (4, 8, 8)}
    keep(webui, *(made_up("ddim", cfg=c, **facts) for c in (2.0, 7.0)))
    tab(webui, built)
    said = of(built, "dode_overview").args[0]
    assert "50% closer to the many-step image than plain DDIM" in said
    line = next(each for each in listing.lines() if "cfg 7" in each)
    ((export, _, outputs),) = of(built, "dode_export").events
    said = export(line)
    assert len(said) == len(outputs) and "Exported to" in said[0], said[0]
    from dode_core.tables.presets import load_preset, read_index

    (preset,) = read_index(webui.folder / "dode-presets")
    (table,) = load_preset(webui.folder / "dode-presets", preset)
    assert table.cfg == 7.0 and not list((webui.folder / "dode").iterdir())
    ((delete, _, _),) = of(built, "dode_delete").events
    said, overview, chosen, *_ = delete(line)
    assert "Deleted: 4 steps, cfg 7" in said and "cfg 7" not in overview
    assert len(chosen["choices"]) == 1
    assert [each.cfg for each in dode.load_tables(webui.sidecar)] == [2.0]
    assert "is not among" in delete(line)[0] and "Choose a table" in delete(None)[0]
    delete(listing.lines()[0])
    assert dode.load_tables(webui.sidecar) == [] and "No tables" in listing.overview()


def test_an_export_that_is_refused_leaves_nothing(webui: Host, built: list[Component]) -> None:
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    table = made_up("ddim", cfg=5.0, model_fingerprint=mark, samples_fit=3, samples_holdout=1)
    keep(webui, table)
    tab(webui, built)
    ((export, _, _),) = of(built, "dode_export").events
    (said,) = export(listing.lines()[0])
    assert "4 samples held out" in said and "Distill it again with 16 samples." in said
    assert not (webui.folder / "dode-presets").exists()


def test_plots_of_several_tables_and_without_matplotlib(
    webui: Host, built: list[Component], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((run, _, _),) = tab(webui, built).events
    several = ["4-5", *VALUES[1:]]
    assert list(run(*several, *TXT2IMG))[-1][1] is not None
    honest = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return honest(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    status, plot, pictures, *_ = list(run(*VALUES, *TXT2IMG))[-1]
    assert plot is None and "Plots need matplotlib" in status and pictures


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, "ten", "Steps &#x27;ten&#x27;"),
        (captured.SCHEDULER, "<script>", "&lt;script&gt;"),
        (6, panel.LIST, "No prompt is given"),
        (captured.WIDTH, 100, "multiples of 8"),
        (3, None, "int()"),
    ],
)
def test_what_the_tab_refuses(
    webui: Host, built: list[Component], place: Any, value: Any, said: str
) -> None:
    ((run, _, _),) = tab(webui, built).events
    values = [*VALUES, *TXT2IMG]
    if place == captured.SCHEDULER and webui.kind == "classic":
        return  # has no menu of schedules
    at = place if isinstance(place, int) else len(VALUES) + captured.names().index(place)
    values[at] = value
    ((status, plot, pictures, *_),) = list(run(*values))
    assert said in status and "<script>" not in status and "class='error'" in status
    assert plot is None and pictures == [] and not webui.sidecar.exists()


def test_a_list_of_prompts(webui: Host, built: list[Component]) -> None:
    ((run, _, _),) = tab(webui, built).events
    webui.log.clear()
    list(run(*VALUES[:6], panel.LIST, "one\n\n  two \n", *TXT2IMG))
    used = {prompt for call in webui.log for prompt in call["prompts"]}
    assert used == {"one", "two"}


def test_a_second_click_watches_what_runs(webui: Host, built: list[Component]) -> None:
    ((run, _, _),) = tab(webui, built).events
    with webui.call_queue.queue_lock:
        first = run(*VALUES, *TXT2IMG)
        assert "waiting" in next(first)[0]
        second = run(*VALUES, *TXT2IMG)
        assert "waiting" in next(second)[0]
    ends = list(second)[-1][0], list(first)[-1][0]
    assert ends[0] == ends[1] and "saved in" in ends[0]


def test_cancel_and_errors_are_shown(webui: Host, built: list[Component]) -> None:
    ((run, _, _),) = tab(webui, built).events
    ((cancel, _, outputs),) = of(built, "dode_cancel").events
    assert outputs == [], "an answer that comes late must not hide the end"
    cancel()  # nothing runs: nothing happens
    webui.call_queue.queue_lock.acquire()
    watching = run(*VALUES, *TXT2IMG)
    next(watching)
    cancel()
    assert "cancelling" in next(watching)[0]
    webui.call_queue.queue_lock.release()
    assert "nothing was written" in list(watching)[-1][0]

    def broken() -> None:
        raise RuntimeError("<b>broken</b>")

    webui.fail = broken
    assert "&lt;b&gt;broken" in list(run(*VALUES, *TXT2IMG))[-1][0]


def test_without_gradios_queue_there_are_no_generators(webui: Host, built: list[Component]) -> None:
    """gradio would refuse to start the whole UI."""
    webui.shared.cmd_opts.no_gradio_queue = True
    ((run, _, _),) = tab(webui, built).events
    status, *_ = run(*VALUES, *TXT2IMG)
    assert "saved in" in status


def test_the_tab_without_the_hosts_widgets(webui: Host, built: list[Component]) -> None:
    """A host that names its widgets otherwise: ordinary values, and the tab works."""
    panel.tabs()
    ((run, inputs, _),) = of(built, "dode_distill").events
    assert len(inputs) == len(VALUES)
    request = panel.request_of([], VALUES)
    assert (request.width, request.cfg, request.scheduler) == (512, 7.0, "Automatic")
    assert request.distilled_cfg_scale is None


def params(p: Any) -> dict[str, Any]:
    """The infotext of a run as a host reads it back: texts."""
    return {key: str(value) for key, value in p.extra_generation_params.items()}


def test_infotext_round_trip(webui: Host, built: list[Component]) -> None:
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    sigmas = webui.txt2img(6, name).sigmas.tolist()
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    good = made_up("ddim", sigmas, model_fingerprint=mark, error=0.1)
    other = made_up("deis", sigmas, model_fingerprint=mark, error=0.9)
    keep(webui, good, other)
    chosen = options.Options(options.table_id(other), 0.5)
    image = webui.txt2img(6, name, dode_options=chosen)
    restored = accordion.paste_table(params(image))
    assert (
        restored
        and restored in options.menu()
        and restored.endswith(f"[{options.table_id(other)}]")
    )
    assert accordion.paste_scale(params(image)) == 0.5 and not accordion.paste_note(params(image))
    again = webui.txt2img(6, name, dode_options=options.Options(restored, 0.5))
    assert again.latent.equal(image.latent)

    automatic = webui.txt2img(6, name)
    pinned = accordion.paste_table(params(automatic))
    assert pinned and pinned.endswith(f"[{options.table_id(good)}]"), "a better table may come"
    assert accordion.paste_scale(params(automatic)) == 1.0
    none = webui.txt2img(6, name, dode_options=options.Options("None"))
    assert accordion.paste_table(params(none)) == "None"

    webui.sidecar.unlink()
    instead = accordion.paste_table(params(image))
    assert instead == f"Automatic instead of {options.table_id(other)}"
    gone = webui.txt2img(6, name)
    accordion.apply(gone, instead, 1.0)
    assert options.of_run(gone).table == AUTOMATIC
    note = accordion.paste_note(params(image))
    assert f"model.dode.json {options.table_id(other)}" in note and "not among" in note


def test_pasting_images_of_two_tables_or_of_others(webui: Host, built: list[Component]) -> None:
    two = {sampling.TABLE: "a 11111111", sampling.hires(sampling.TABLE): "a 22222222"}
    assert accordion.paste_table(two) == AUTOMATIC
    assert "11111111 and a 22222222" in accordion.paste_note(two)
    assert accordion.paste_table({"Steps": "20"}) is None
    assert accordion.paste_scale({"Steps": "20"}) is None
    assert accordion.paste_keep({"Steps": "20"}) is None
    assert accordion.paste_keep({sampling.TABLE: "none", sampling.KEEP: "x"}) is False
    assert accordion.paste_note({"Steps": "20"}) == ""
    for bad in ("nan", "1e999", "x", ""):
        assert accordion.paste_scale({sampling.TABLE: "none", sampling.SCALE: bad}) == 1.0


def test_tables_of_two_cfgs_are_not_one(webui: Host, built: list[Component]) -> None:
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    sigmas = webui.txt2img(6, name).sigmas.tolist()
    mark = f"file:{file_fingerprint(webui.checkpoint)}"
    keep(webui, *(made_up("ddim", sigmas, model_fingerprint=mark, cfg=c) for c in (5.0, 9.0)))
    image = webui.txt2img(6, name)
    assert params(image)[sampling.MATCH] == "exact between cfgs"
    assert accordion.paste_table(params(image)) == AUTOMATIC
    assert webui.txt2img(6, name).latent.equal(image.latent)


def grid_module(webui: Host) -> Any:
    """The host's grid script, loaded as a script."""

    class AxisOption:
        def __init__(self, label: str, type: Any, apply: Any, **known: Any) -> None:
            assert set(known) <= {"format_value", "confirm", "cost", "choices", "prepare"}
            self.label, self.type, self.apply = label, type, apply
            self.choices, self.confirm = known.get("choices"), known.get("confirm")
            self.format_value = known.get("format_value")

    module = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Seed", int, None)])
    others = SimpleNamespace(axis_options="not a list"), SimpleNamespace()
    webui.scripts.scripts_data = [SimpleNamespace(module=each) for each in (*others, module)]
    return module


def test_grid_axes(webui: Host) -> None:
    module = grid_module(webui)
    for _ in range(2):
        grid.add_axes()
    labels = [each.label for each in module.axis_options]
    assert labels == ["Seed", grid.TABLE, grid.SCALE, grid.KEEP]
    table, scale, kept = module.axis_options[1:]
    name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
    mine = made_up("deis", webui.txt2img(6, name).sigmas.tolist())
    keep(webui, mine)
    entry = next(line for line in table.choices() if "DEIS" in line)
    latents = []
    for value in (AUTOMATIC, "None", entry, options.table_id(mine)):
        p = webui.txt2img(2, name)
        table.apply(p, value, [])
        scale.apply(p, 1.0, [])
        accordion.apply(p, "None", 0.0)  # what the accordion says, which a cell overrides
        latents.append(webui.txt2img(6, name, dode_grid=p.dode_grid).latent)
    assert latents[0].equal(latents[2]) and latents[2].equal(latents[3])
    assert not latents[0].equal(latents[1])
    assert table.format_value(None, table, entry) == f"D-ODE table: {options.table_id(mine)}"
    assert table.format_value(None, table, AUTOMATIC) == "D-ODE table: Automatic"
    table.confirm(None, [AUTOMATIC, "None", entry])
    with pytest.raises(dode.TableError, match="is not among"):
        table.confirm(None, ["ffffffff"])
    scale.confirm(None, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="not from 0 to 2"):
        scale.confirm(None, [3.0])
    for word, meant in (("Yes", True), ("No", False)):
        kept.apply(p, word, [])
        assert options.of_run(p).keep_schedule is meant
    kept.confirm(None, kept.choices())
    with pytest.raises(ValueError, match="'maybe'; write Yes or No"):
        kept.confirm(None, ["maybe"])


def test_flag_for_the_folder(webui: Host, tmp_path: Path) -> None:
    from dode_webui import host

    parser = argparse.ArgumentParser()
    runpy.run_path(str(ROOT / "preload.py"))["preload"](parser)
    assert parser.parse_args([]).dode_dir is None
    assert host.own_folder() == webui.folder / "dode"
    webui.shared.cmd_opts.dode_dir = parser.parse_args(["--dode-dir", str(tmp_path)]).dode_dir
    assert host.own_folder() == tmp_path and host.library().own == tmp_path


@pytest.mark.parametrize("has", [True, False, None])
def test_install_hook(
    has: bool | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silent; pip only where matplotlib is missing; no network is no error."""
    asked: list[str] = []
    launch = ModuleType("launch")

    def run_pip(command: str, what: str) -> None:
        asked.append(command)
        raise RuntimeError("no network")

    launch.is_installed, launch.run_pip = (lambda name: has), run_pip  # type: ignore[attr-defined]
    if has is None:
        monkeypatch.delitem(sys.modules, "launch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "launch", launch)
    runpy.run_path(str(ROOT / "install.py"))
    assert asked == ([] if has in (True, None) else ["install matplotlib"])
    assert capsys.readouterr() == ("", "")


def test_loading_costs_no_heavy_import() -> None:
    """torch is the host's already; plots and pictures come when they are asked for."""
    import subprocess

    program = (
        "import sys; sys.path.insert(0, '.'); import torch, numpy; before = set(sys.modules);"
        "import dode_webui.accordion, dode_webui.api, dode_webui.grid, dode_webui.settings;"
        "heavy = {'matplotlib', 'PIL', 'gradio', 'fastapi', 'modules', 'k_diffusion'};"
        "print(sorted(heavy & {name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
