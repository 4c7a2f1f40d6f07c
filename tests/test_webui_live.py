"""Smoke test against a running WebUI: ``DODE_WEBUI_URL=http://127.0.0.1:7860``, with ``--api``.

Opt-in, because no package index has a WebUI. It makes a few images of 64 x 64 pixels with the
loaded checkpoint and adds tables for 3 and 4 steps beside it. The steps in the browser need a
Chromium.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

URL = os.environ.get("DODE_WEBUI_URL", "").rstrip("/")
AUTH = (
    tuple(os.environ["DODE_WEBUI_AUTH"].split(":", 1)) if "DODE_WEBUI_AUTH" in os.environ else None
)
pytestmark = pytest.mark.skipif(not URL, reason="DODE_WEBUI_URL is not set")
RUN: dict[str, Any] = {
    "prompt": "a red fox", "negative_prompt": "blurry", "seed": 1, "cfg_scale": 5, "width": 64,
    "height": 64, "steps": 4, "sampler_name": "D-ODE", "scheduler": "Karras",
    "distilled_cfg_scale": 3,  # what Neo's page has for a model that takes one
}  # fmt: skip
DISTILL: dict[str, Any] = {
    "solver": "ddim", "steps": "3-4", "scheduler": "Karras", "samples": 2, "batch_size": 2,
    "learn_sigmas": False, "cfg": 5, "width": 64, "height": 64, "prompts": ["a red fox"],
    "negative": "blurry", "distilled_cfg_scale": 3,
}  # fmt: skip
PATIENCE = 600


def call(method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(method, URL + path, timeout=PATIENCE, auth=AUTH, **options)


@functools.cache
def in_names() -> bool:
    """Whether this host has no schedule menu: the schedule is in the samplers' names."""
    return call("GET", "/sdapi/v1/schedulers").status_code == 404


def karras(name: str) -> str:
    """A sampler on Karras sigmas as this host calls it."""
    return f"{name} Karras" if in_names() else name


def body_of(changes: dict[str, Any]) -> dict[str, Any]:
    body = {**RUN, **changes}
    return {**body, "sampler_name": karras(body["sampler_name"])}


def run(kind: str = "txt2img", **changes: Any) -> tuple[dict[str, str], list[str]]:
    """(the infotext's D-ODE part and sampler, images as base64)."""
    answer = call("POST", f"/sdapi/v1/{kind}", json=body_of(changes))
    assert answer.status_code == 200, answer.text[:2000]
    body = answer.json()
    last = json.loads(body["info"])["infotexts"][0].split("\n")[-1]
    pairs = [part.split(": ", 1) for part in last.split(", ") if ": " in part]
    return {key: value for key, value in pairs}, body["images"]


@pytest.fixture(scope="module")
def tables() -> list[dict[str, Any]]:
    """Distilled through the API."""
    answer = call("POST", "/dode/v1/distill", json=DISTILL)
    assert answer.status_code == 200, answer.text[:2000]
    return answer.json()["tables"]


def test_in_the_menu_once() -> None:
    names = [each["name"] for each in call("GET", "/sdapi/v1/samplers").json()]
    assert names.count("D-ODE") == 1 and "D-ODE calibration" not in names


def test_tables_are_listed(tables: list[dict[str, Any]]) -> None:
    listed = call("GET", "/dode/v1/tables").json()["tables"]
    own = {each["id"] for each in listed if each["for_loaded_checkpoint"]}
    assert {each["id"] for each in tables} <= own
    assert [(each["steps"], each["cfg"]) for each in tables] == [(3, 5.0), (4, 5.0)]


def test_txt2img_is_the_same_every_time(tables: list[dict[str, Any]]) -> None:
    params, images = run()
    assert params["Sampler"] == karras("D-ODE") and params["D-ODE match"] == "exact"
    assert params["D-ODE table"].endswith(tables[1]["id"])
    assert run()[1] == images
    kept, other = run(alwayson_scripts={"D-ODE": {"args": ["Automatic", 1, True]}})
    assert kept["D-ODE keep schedule"] == "True" and kept["D-ODE match"] == "exact"
    assert difference(other, images) == 0, "its sigmas are the schedule's"
    plain, other = run(alwayson_scripts={"D-ODE": {"args": ["None", 1]}})
    assert plain["D-ODE match"] == "uncalibrated" and other != images


def test_a_table_that_is_not_there_is_an_error_in_the_answer() -> None:
    body = body_of({"alwayson_scripts": {"D-ODE": {"args": ["0badc0de", 1]}}})
    answer = call("POST", "/sdapi/v1/txt2img", json=body)
    assert answer.status_code == 422
    assert "Table '0badc0de' is not among the table files here" in answer.json()["detail"]
    params, _ = run()  # and the host goes on
    assert params["Sampler"] == karras("D-ODE")


def difference(a: list[str], b: list[str]) -> int:
    """The largest difference of two pictures, in 255ths."""
    pixels = [
        Image.open(io.BytesIO(base64.b64decode(x[0]))).convert("RGB").tobytes() for x in (a, b)
    ]
    return max(abs(p - q) for p, q in zip(*pixels, strict=True))


def test_scale_0_is_the_hosts_own_euler(tables: list[dict[str, Any]]) -> None:
    if in_names():
        pytest.skip("this host's Euler has no entry with Karras sigmas, on which the table is")
    params, ours = run(alwayson_scripts={"D-ODE": {"args": [tables[1]["id"], 0]}})
    assert params["D-ODE scale"] == "0" and params["D-ODE solver"] == "D-DDIM"
    assert difference(ours, run(sampler_name="Euler")[1]) <= 2


def test_without_a_table_it_is_the_hosts_own_dpmpp_2m(tables: list[dict[str, Any]]) -> None:
    if tables[0]["sigmas"][0] == 1:
        pytest.skip("on flow models ours steps in log-SNR, the hosts' own in log sigma")
    ours = run(alwayson_scripts={"D-ODE": {"args": ["None", 1]}})[1]
    assert difference(ours, run(sampler_name="DPM++ 2M")[1]) <= 2


def upscaler() -> str:
    """One that this host has and that needs no download."""
    modes = call("GET", "/sdapi/v1/latent-upscale-modes")
    listed = [each["name"] for each in modes.json()] if modes.status_code == 200 else []
    listed += [each["name"] for each in call("GET", "/sdapi/v1/upscalers").json()]
    return next(name for name in ("Latent", "Lanczos", "Nearest", "None") if name in listed)


def test_hires_pass(tables: list[dict[str, Any]]) -> None:
    params, _ = run(
        enable_hr=True, hr_scale=1.5, hr_upscaler=upscaler(), denoising_strength=0.6,
        hr_second_pass_steps=4, hr_cfg=5, hr_cfg_scale=5, hr_additional_modules=[],
    )  # fmt: skip
    assert params["D-ODE match"] == "exact"
    # A profile serves it where somebody made one of this checkpoint before.
    assert params["D-ODE hires match"] in ("slice", "interpolated", "profile", "uncalibrated")


def test_img2img(tables: list[dict[str, Any]]) -> None:
    image = run()[1][0]
    params, _ = run("img2img", init_images=[image], denoising_strength=0.5)
    assert params["Sampler"] == karras("D-ODE") and params["D-ODE match"] == "slice"


def test_grid_over_tables_and_scales(tables: list[dict[str, Any]]) -> None:
    scripts = call("GET", "/sdapi/v1/script-info").json()
    grid = next(s for s in scripts if s["name"] == "x/y/z plot" and not s["is_img2img"])
    args = [each["value"] for each in grid["args"]]
    labels = [each["label"] for each in grid["args"]]

    def axis(name: str, option: str, values: str, listed: list[str]) -> None:
        at = labels.index(f"{name} type")
        choices = [c[0] if isinstance(c, list) else c for c in grid["args"][at]["choices"]]
        args[at : at + 3] = [choices.index(option), values, listed]

    axis("X", "D-ODE table", "", ["None", tables[1]["id"]])
    axis("Y", "D-ODE lambda scale", "0, 0.5, 1", [])
    axis("Z", "Nothing", "", [])
    args[labels.index("Include Sub Images")] = True  # and their infotexts, in every host
    answer = call(
        "POST", "/sdapi/v1/txt2img",
        json=body_of({"script_name": "x/y/z plot", "script_args": args}),
    )  # fmt: skip
    assert answer.status_code == 200, answer.text[:2000]
    texts = json.loads(answer.json()["info"])["infotexts"]
    assert sum("D-ODE match: exact" in text for text in texts) >= 3
    assert any("D-ODE scale: 0.5" in text for text in texts)


def until_it_samples(thread: threading.Thread) -> None:
    """Until the host reports a step of what ``thread`` asked for."""
    deadline = time.monotonic() + PATIENCE
    progress = "/sdapi/v1/progress?skip_current_image=true"
    while not call("GET", progress).json()["state"]["sampling_step"]:
        thread.join(0.2)  # asking without a pause would take the processor from the sampling
        assert time.monotonic() < deadline and thread.is_alive()


def test_interrupt_and_what_follows() -> None:
    answers: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: answers.append(run(steps=60)[0]))
    thread.start()
    until_it_samples(thread)
    call("POST", "/sdapi/v1/interrupt")
    thread.join(PATIENCE)
    assert answers[0]["D-ODE match"], "the infotext of what was interrupted"
    assert run()[0]["Sampler"] == karras("D-ODE")


def test_interrupt_of_a_distillation_writes_nothing() -> None:
    before = call("GET", "/dode/v1/tables").json()
    answers: list[requests.Response] = []
    body = {**DISTILL, "steps": 50, "samples": 4}
    thread = threading.Thread(
        target=lambda: answers.append(call("POST", "/dode/v1/distill", json=body))
    )
    thread.start()
    until_it_samples(thread)
    assert call("POST", "/dode/v1/distill", json=body).status_code == 409, "one at a time"
    call("POST", "/sdapi/v1/interrupt")
    thread.join(PATIENCE)
    assert answers[0].status_code == 409 and "nothing was written" in answers[0].text
    assert call("GET", "/dode/v1/tables").json() == before
    assert run()[0]["Sampler"] == karras("D-ODE")


@pytest.mark.parametrize("body", [[], {"steps": "x"}, {"file": "../x"}, {"width": 65}])
def test_bad_bodies(body: Any) -> None:
    answer = call("POST", "/dode/v1/distill", json=body)
    assert answer.status_code == 422 and answer.json()["detail"]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """The WebUI's own page in a browser."""
    from hosts.browser import FLAGS, BrowserMissing, find_chrome
    from playwright.sync_api import sync_playwright

    try:
        chrome = find_chrome()
    except BrowserMissing as error:
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chrome, args=FLAGS)
        opened = browser.new_page(
            viewport={"width": 1500, "height": 1000},
            http_credentials={"username": AUTH[0], "password": AUTH[1]} if AUTH else None,
        )
        opened.set_default_timeout(120_000)
        opened.goto(URL, wait_until="domcontentloaded")
        opened.wait_for_selector("#txt2img_dode", state="attached")
        until_it_is_still(opened)
        yield opened
        browser.close()


def until_it_is_still(page: Any) -> None:
    """Until no value changes: Neo's preset sets widgets after the page is there."""
    page.wait_for_function(
        "() => {const now = [...document.querySelectorAll('input, textarea')]"
        ".map(each => each.value).join();"
        "const same = now === window.dodeSeen; window.dodeSeen = now;"
        "window.dodeStill = same ? (window.dodeStill || 0) + 1 : 0; return window.dodeStill >= 10}",
        polling=500,
    )


def fill(page: Any, elem_id: str, text: str) -> None:
    box = page.locator(
        f"#{elem_id} textarea, #{elem_id} input[type=number], #{elem_id} input"
    ).first
    box.fill(text)
    box.press("Tab")


def open_tab(page: Any, name: str) -> None:
    page.locator("#tabs > .tab-nav button", has_text=name).first.click()


def choose(page: Any, elem_id: str, entry: str) -> None:
    page.locator(f"#{elem_id} input").first.click()
    page.locator("ul.options li", has_text=entry).first.click()


def prepare(page: Any) -> None:
    """What the tab takes from txt2img."""
    open_tab(page, "txt2img") if page.locator(
        "#tabs > .tab-nav button", has_text="txt2img"
    ).count() else open_tab(page, "Txt2img")
    fill(page, "txt2img_prompt", "a red fox")
    fill(page, "txt2img_neg_prompt", "blurry")
    for name, value in (("width", "64"), ("height", "64"), ("cfg_scale", "5"), ("steps", "4")):
        fill(page, f"txt2img_{name}", value)
    if page.locator("#txt2img_distilled_cfg_scale").first.is_visible():
        fill(page, "txt2img_distilled_cfg_scale", "3")
    if page.locator("#txt2img_scheduler").count():
        choose(page, "txt2img_scheduler", "Karras")


def test_distill_in_the_browser(page: Any) -> None:
    """The tab: progress is seen, then tables, a plot and pictures."""
    prepare(page)
    open_tab(page, "D-ODE")
    fill(page, "dode_steps", "3")
    page.locator("#dode_more .label-wrap").first.click()
    choose(page, "dode_solver", "D-DDIM")
    fill(page, "dode_samples", "2")
    page.locator("#dode_effort label", has_text="Quick").click()
    page.wait_for_function("document.querySelector('#dode_cost').innerText.includes('evaluations')")
    page.click("#dode_distill")
    page.wait_for_selector("#dode_status progress", timeout=PATIENCE * 1000)
    page.wait_for_selector("#dode_status .dode-done, #dode_status .error", timeout=PATIENCE * 1000)
    assert "saved in" in page.inner_text("#dode_status")
    page.wait_for_selector("#dode_plot img")
    page.wait_for_selector("#dode_gallery img")
    assert page.locator("#dode_gallery img").count() >= 3
    assert page.locator("#txt2img_dode_table input").first.input_value() == "Automatic"


def test_cancel_in_the_browser(page: Any) -> None:
    before = call("GET", "/dode/v1/tables").json()
    open_tab(page, "D-ODE")
    fill(page, "dode_steps", "40")
    page.click("#dode_distill")
    page.wait_for_selector("#dode_status progress", timeout=PATIENCE * 1000)
    page.click("#dode_cancel")
    page.wait_for_selector("#dode_status .error", timeout=PATIENCE * 1000)
    assert "nothing was written" in page.inner_text("#dode_status")
    assert call("GET", "/dode/v1/tables").json() == before


def test_generate_and_paste_in_the_browser(page: Any, tables: list[dict[str, Any]]) -> None:
    """The dropdown's entry makes an image; its infotext, pasted, restores table and scale."""
    prepare(page)
    choose(page, "txt2img_sampling", karras("D-ODE"))
    page.click("#txt2img_generate")
    page.wait_for_function(
        "document.querySelector('#html_info_txt2img, #html_log_txt2img') &&"
        "document.querySelector('#html_info_txt2img').innerText.includes('D-ODE match')",
        timeout=PATIENCE * 1000,
    )
    text = page.inner_text("#html_info_txt2img")
    assert "Sampler: D-ODE" in text and "D-ODE match: exact" in text
    mine = tables[1]["id"]
    infotext = (
        f"a blue fox\nSteps: 4, Sampler: {karras('D-ODE')}, Schedule type: Karras, CFG scale: 5, "
        f"Seed: 1, Size: 64x64, D-ODE table: x.dode.json {mine}, D-ODE solver: D-DDIM, "
        "D-ODE match: exact, D-ODE scale: 0.5, D-ODE keep schedule: True, Version: 1"
    )
    paste(page, infotext)
    page.wait_for_function(
        f"[...document.querySelectorAll('#txt2img_dode_table input')]"
        f".some(x => x.value.endsWith('[{mine}]'))"
    )
    scale = page.locator("#txt2img_dode_scale input[type=number]").first
    assert float(scale.input_value()) == 0.5
    assert page.locator("#txt2img_dode_keep_schedule input").first.is_checked()
    assert page.inner_text("#txt2img_dode_pasted").strip() == ""
    paste(page, infotext.replace(mine, "0badc0de"))
    page.wait_for_function(
        "document.querySelector('#txt2img_dode_pasted').textContent.includes('0badc0de')"
    )
    chosen = page.locator("#txt2img_dode_table input").first.input_value()
    assert chosen == "Automatic instead of x.dode.json 0badc0de"


def paste(page: Any, infotext: str) -> None:
    """Read generation parameters from the prompt, as the arrow button does.

    Classic keeps that button off while there is a negative prompt.
    """
    page.fill("#txt2img_neg_prompt textarea", "")
    page.locator("#txt2img_neg_prompt textarea").press("Tab")
    page.fill("#txt2img_prompt textarea", infotext)
    page.locator("#txt2img_prompt textarea").press("Tab")
    page.click("#paste")


def server() -> str:
    """What tells a server from the one before it; empty while there is none."""
    try:
        answer = call("GET", "/app_id")
        return str(answer.json()["app_id"]) if answer.status_code == 200 else ""
    except (requests.ConnectionError, ValueError):
        return ""


def test_reload_ui(page: Any) -> None:
    """The scripts run again: one entry, and everything still works."""
    old = server()
    assert old
    page.evaluate("document.querySelector('#settings_restart_gradio').click()")
    deadline = time.monotonic() + PATIENCE
    while server() in (old, ""):  # the old one answers for a while
        assert time.monotonic() < deadline
        time.sleep(0.5)
    while call("GET", "/dode/v1/tables").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    test_in_the_menu_once()
    assert run()[0]["Sampler"] == karras("D-ODE")
    page.goto(URL, wait_until="domcontentloaded")
    page.wait_for_selector("#txt2img_dode", state="attached")
    assert page.locator("#txt2img_dode_distill").count() == 1
