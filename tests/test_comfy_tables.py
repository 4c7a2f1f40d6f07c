"""The panel with all tables and profiles: what the server does, and what a person sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comfy_graphs import demo, distill, ksampler, node, run
from conftest import missing
from hosts.browser import BrowserMissing, FrontEnd, find_chrome
from hosts.comfy import ComfyServer
from tables import made_up
from test_profile_file import made as made_profile

import dode_core as dode

ROUTE = "/dode/tables"
BAD_NAMES = ("../out", "..", "a/b", "a\\b", "", "CON", ".hidden", "x" * 300, None, 7, ["a"], "\0")


@pytest.fixture
def shelf(comfy: ComfyServer) -> ComfyServer:
    """Two tables in one file, a profile, and a file that is damaged."""
    folder = comfy.models / "dode"
    folder.mkdir(exist_ok=True)
    tables = [made_up(cfg=7.0, model_name="<b>dreamer</b>"), made_up("heun", cfg=4.0)]
    dode.save_tables(folder / "mine.dode.json", tables)
    made_profile().save(folder / "once.dode-profile")
    (folder / "torn.dode.json").write_text('{"format": "dode-lambda-tables"')
    return comfy


def entries(server: ComfyServer) -> dict[str, dict[str, Any]]:
    return {each["title"]: each for each in server.client.get(ROUTE)["tables"]}


def ask(server: ComfyServer, action: str, **content: Any) -> tuple[int, str]:
    answer = server.client.post(f"{ROUTE}/{action}", json=content)
    found = answer.json()
    return answer.status_code, found.get("text") or found["error"]


def test_everything_is_listed(shelf: ComfyServer) -> None:
    found = entries(shelf)
    assert {each["file"] for each in found.values()} == {
        "dode/mine.dode.json",
        "dode/once.dode-profile",
        "dode/torn.dode.json",
    }
    table = found["D-DDIM, 4 steps, cfg 7"]
    assert table["model"] == "<b>dreamer</b>" and not table["fixed"]
    assert table["worth"] == "50% closer to the many-step image than plain DDIM"
    assert found["any steps, cfg 3"]["kind"] == "profile"
    torn = found["cannot be read"]
    assert torn["fixed"] and "torn.dode.json: not valid JSON" in torn["note"]
    status, said = ask(shelf, "delete", id=torn["id"])
    assert status == 400 and "damaged files are left as they are" in said


def test_a_table_is_deleted_the_others_stay(shelf: ComfyServer) -> None:
    found = entries(shelf)
    status, said = ask(shelf, "delete", id=found["D-DDIM, 4 steps, cfg 7"]["id"])
    assert status == 200 and "D-DDIM, 4 steps, cfg 7" in said
    (left,) = dode.load_tables(shelf.models / "dode" / "mine.dode.json")
    assert left.solver == "heun"
    assert ask(shelf, "delete", id=found["any steps, cfg 3"]["id"])[0] == 200
    assert not (shelf.models / "dode" / "once.dode-profile").exists()
    status, said = ask(shelf, "delete", id=found["any steps, cfg 3"]["id"])
    assert status == 400 and "not there any more" in said


def test_a_file_gets_another_name(shelf: ComfyServer) -> None:
    folder, found = shelf.models / "dode", entries(shelf)
    key = found["any steps, cfg 3"]["id"]
    assert ask(shelf, "rename", id=key, name="my dreamer")[0] == 200
    assert dode.Profile.load(folder / "my dreamer.dode-profile").cfg == 3.0
    key = found["D-DDIM, 4 steps, cfg 7"]["id"]
    status, said = ask(shelf, "rename", id=key, name="torn")
    assert status == 400 and "a file torn.dode.json already" in said
    assert ask(shelf, "rename", id=key, name="other")[0] == 200
    assert len(dode.load_tables(folder / "other.dode.json")) == 2


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_hostile_names_stay_in_the_folder(shelf: ComfyServer, name: Any) -> None:
    before = everything(shelf.base)
    for title in ("D-DDIM, 4 steps, cfg 7", "any steps, cfg 3"):
        status, said = ask(shelf, "rename", id=entries(shelf)[title]["id"], name=name)
        assert status == 400 and "not usable" in said
    for key in (name, "../../mine.dode.json", "dode/mine.dode.json"):
        assert ask(shelf, "delete", id=key)[0] == 400
    assert everything(shelf.base) == before


def test_what_is_no_request_of_the_panel(shelf: ComfyServer) -> None:
    """Another site's form sends text; ids alone do nothing."""
    key = entries(shelf)["D-DDIM, 4 steps, cfg 7"]["id"]
    post = shelf.client.post
    assert post(f"{ROUTE}/delete", data=f'{{"id": "{key}"}}').status_code == 415
    as_json = {"headers": {"Content-Type": "application/json"}}
    for body in ("[1]", "{", '"x"', "null"):
        assert post(f"{ROUTE}/delete", data=body, **as_json).status_code == 400
    assert post(f"{ROUTE}/delete", data='"' + "x" * 70_000 + '"', **as_json).status_code == 415
    assert post(f"{ROUTE}/burn", json={"id": key}).status_code == 404
    assert len(dode.load_tables(shelf.models / "dode" / "mine.dode.json")) == 2


def test_presets_are_exported_not_changed(shelf: ComfyServer) -> None:
    """Only what is fit to be shared, into a folder that is not searched for tables."""
    status, said = ask(shelf, "export", id=entries(shelf)["D-DDIM, 4 steps, cfg 7"]["id"])
    assert status == 400 and "not fit to be shared" in said
    shelf.show_presets(True)
    try:
        preset = next(
            each for each in entries(shelf).values() if each["file"].startswith("presets")
        )
        status, said = ask(shelf, "delete", id=preset["id"])
        assert status == 400 and "presets come with D-ODE" in said
        assert ask(shelf, "export", id=preset["id"])[0] == 200
    finally:
        shelf.show_presets(False)
    (made,) = (shelf.models / "dode-presets").glob("*.dode.json")
    assert len(dode.load_tables(made)) == 1
    assert (shelf.models / "dode-presets" / "index.json").is_file()


def test_load_table_takes_what_a_table_says(shelf: ComfyServer) -> None:
    """By words, and a profile for any steps."""
    file = "dode/mine.dode.json"
    load = {
        "a": node("DODE_LoadTable", file=file, table="cfg 7"),
        "b": node("DODE_LoadTable", file=file, table="4 steps, CFG 4"),
        "c": node("DODE_LoadTable", file="dode/once.dode-profile", steps=5),
        "count": node("PreviewAny", source=["c", 1]),
    }
    keep = {f"save_{k}": node("DODE_SaveTable", table=[k, 0], filename=f"of {k}") for k in "abc"}
    result = run(shelf, load, keep)
    assert "cfg 7" in result.text("a") and "D-EDM, 4 steps, cfg 4" in result.text("b")
    assert "ready for any number of steps" in result.text("c")
    assert len("".join(result.outputs["count"]["text"]).split(",")) == 6
    assert dode.Profile.load(shelf.models / "dode" / "of c.dode-profile").cfg == 3.0


@pytest.fixture(scope="module")
def front(comfy_server: ComfyServer) -> Iterator[FrontEnd]:
    try:
        find_chrome()
    except BrowserMissing as error:
        missing("A browser", error)
    with FrontEnd(comfy_server.url) as opened:
        yield opened


def test_in_the_browser(front: FrontEnd, shelf: ComfyServer) -> None:
    """The panel lists, says what the last run used, loads, renames and deletes; text is text."""
    source = demo(batch=1)
    run(shelf, distill(source, steps=5))
    run(shelf, ksampler(source, steps=5))
    page = front.page
    page.locator(".dode-tables-tab-button, [aria-label='D-ODE tables']").first.click()
    panel = page.get_by_test_id("dode-tables")
    first = panel.locator(".dode-entry").first
    first.get_by_text("used by the last run").wait_for(timeout=30_000)
    assert "emoji_edm: D-DDIM, 5 steps, cfg 2" in first.inner_text()
    panel.get_by_text("<b>dreamer</b>: D-DDIM, 4 steps, cfg 7").wait_for()
    assert panel.locator("b").count() == 0
    page.screenshot(path=Path(__file__).parent.parent / "test_output" / "tables.png")

    panel.get_by_placeholder("Search").fill("dreamer cfg 7")
    entry = panel.locator(".dode-entry")
    assert entry.count() == 1
    page.evaluate("() => window.app.graph.clear()")
    entry.get_by_text("Load").click()
    values = "() => window.app.graph.nodes.map(n => n.widgets.map(w => w.value))"
    page.wait_for_function("() => window.app.graph.nodes.length === 1")
    assert page.evaluate(values)[0][0] == "dode/mine.dode.json"
    assert "D-DDIM, 4 steps, cfg 7" in page.evaluate(values)[0]

    entry.get_by_text("Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    panel.get_by_text("Deleted: D-DDIM, 4 steps, cfg 7").wait_for(timeout=30_000)
    assert entry.count() == 0
    assert [t.solver for t in dode.load_tables(shelf.models / "dode" / "mine.dode.json")] == [
        "heun"
    ]
    assert front.errors == []


def everything(base: Path) -> set[str]:
    """Every file below the server's folders but its log."""
    found = {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("user") and not name.endswith(".pyc")}
