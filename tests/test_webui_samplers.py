"""D-ODE in the sampler menus of every host."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from webui_host import HOSTS, SCHEDULES, Host, install, other_host

from dode_core.solve.solvers import SOLVERS
from dode_webui import samplers

ROOT = Path(__file__).resolve().parent.parent
MORE = [solver.label for solver in SOLVERS.values()]


def ours(host: Host, kind: str) -> list[str]:
    """What the menu must show of ours with the setting on."""
    labels = ["D-ODE", *MORE]
    if kind != "classic":
        return labels
    return [name for label in labels for name in (label, f"{label} Karras")]


def test_in_every_menu_and_map(webui: Host) -> None:
    expected = ["D-ODE", "D-ODE Karras"] if webui.kind == "classic" else ["D-ODE"]
    assert [label for label in webui.labels() if label.startswith("D-")] == expected
    assert webui.labels()[0] == "DPM++ 2M", "the host's own come first"
    assert webui.sd_samplers.samplers_for_img2img is webui.sd_samplers.samplers
    assert webui.sd_samplers.samplers_map["d-ode"] == "D-ODE"
    assert webui.sd_samplers.all_samplers_map["D-ODE"].aliases == ["d-ode"]


def test_as_often_as_one_likes(webui: Host) -> None:
    before = webui.labels()
    for _ in range(3):
        assert samplers.register()
    assert webui.labels() == before


def test_the_others_only_by_the_setting(webui: Host) -> None:
    webui.shared.opts.data["dode_more_samplers"] = True
    samplers.register()
    assert [x for x in webui.labels() if x.startswith("D-")] == ours(webui, webui.kind)
    webui.shared.opts.data["dode_more_samplers"] = False
    samplers.register()
    assert not set(MORE) & set(webui.labels())
    assert not set(MORE) & set(webui.sd_samplers.all_samplers_map)


def test_names_survive_the_host_that_cuts_them(webui: Host) -> None:
    """A name that ends in a schedule's becomes another sampler, silently."""
    if webui.kind == "classic":
        return
    webui.shared.opts.data["dode_more_samplers"] = True
    samplers.register()
    for label in ours(webui, webui.kind):
        assert webui.sd_samplers.get_sampler_and_scheduler(label, "Karras") == (label, "Karras")
    name = samplers.hide(lambda sigmas: None)
    assert webui.sd_samplers.get_sampler_and_scheduler(name, "Karras") == (name, "Karras")


@pytest.mark.parametrize("label", ["D-ODE", samplers.HIDDEN, *MORE])
def test_no_name_ends_in_any_schedule_of_any_host(label: str) -> None:
    assert not any(label.lower().endswith(f" {name.lower()}") for name in SCHEDULES)


def test_a_name_that_would_be_cut_is_left_out(
    webui: Host, caplog: pytest.LogCaptureFixture
) -> None:
    if webui.kind == "classic":
        return
    samplers.add("D-ODE Karras", lambda sigmas: None, {})
    assert "D-ODE Karras" not in webui.labels() and "'Karras'" in caplog.text


def test_the_look_up_is_made_anew(webui: Host) -> None:
    if webui.kind == "classic":
        return
    lookup = webui.sd_samplers.get_sampler_and_scheduler
    assert lookup(samplers.HIDDEN, "Karras")[0] == "DPM++ 2M"  # kept by the host's cache
    samplers.hide(lambda sigmas: None)
    assert lookup(samplers.HIDDEN, "Karras")[0] == samplers.HIDDEN
    samplers.unhide()
    assert lookup(samplers.HIDDEN, "Karras")[0] == "DPM++ 2M"


def test_options_that_the_api_can_answer(webui: Host) -> None:
    for each in webui.sd_samplers.all_samplers:
        assert all(isinstance(value, str | bool) for value in each.options.values())


def test_another_extension_rebinds_the_map(webui: Host) -> None:
    if not hasattr(webui.sd_samplers, "add_sampler"):
        return
    common = webui.sd_samplers_common
    samplers.hide(lambda sigmas: None)
    webui.sd_samplers.add_sampler(common.SamplerData("Other", None, [], {}))
    assert samplers.HIDDEN not in webui.sd_samplers.all_samplers_map
    samplers.hide(lambda sigmas: None)
    assert samplers.HIDDEN in webui.sd_samplers.all_samplers_map
    assert samplers.HIDDEN not in webui.labels()
    samplers.register()
    assert webui.labels().count("D-ODE") == 1 and "Other" in webui.labels()


@pytest.mark.parametrize("kind", HOSTS)
def test_the_script_itself(kind: str, tmp_path: Path) -> None:
    """As the host runs it, twice: scripts have no package and leave nothing behind."""
    host = install(kind, tmp_path)
    try:
        for _ in range(2):
            names = runpy.run_path(str(ROOT / "scripts" / "dode.py"))
            found = [
                each
                for each in names.values()
                if isinstance(each, type) and issubclass(each, host.scripts.Script)
            ]
            assert [each.__name__ for each in found] == ["DodeScript"]
            assert found[0]().show(False) is host.scripts.AlwaysVisible
        assert host.labels().count("D-ODE") == 1
        host.script_callbacks.callbacks_ui_settings[0]()
        assert not host.shared.opts.dode_more_samplers
    finally:
        host.remove()


def test_quiet_on_a_host_it_does_not_know(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    host = other_host(tmp_path)
    try:
        script = runpy.run_path(str(ROOT / "scripts" / "dode.py"))["DodeScript"]()
        assert script.show(False) is False
        assert host.labels() == ["DPM++ 2M"] and not host.script_callbacks.callbacks_ui_tabs
        assert not capsys.readouterr().out
        (line,) = caplog.messages
        assert "no k-diffusion samplers" in line and "DodeScheduler" in line
    finally:
        host.remove()


def test_layout_that_hosts_can_load() -> None:
    """Traps: a package in scripts/, or a folder that hides one of the host's modules."""
    assert [path.name for path in (ROOT / "scripts").glob("*.py")] == ["dode.py"]
    taken = {"modules", "models", "utils", "backend", "k_diffusion", "ldm", "sgm", "comfy"}
    assert not taken & {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not {"launch.py", "webui.py", "webui"} & {path.name for path in ROOT.iterdir()}
