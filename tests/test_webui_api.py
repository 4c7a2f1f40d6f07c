"""The extension's HTTP routes in a real FastAPI application, with the host's own guard."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.testclient import TestClient
from tables import made_up
from webui_host import Host

import dode_core as dode
from dode_core.tables.identity import file_fingerprint
from dode_webui import api, distill, job, options

BODY = {"solver": "ddim", "steps": 4, "scheduler": "Karras", "samples": 4, "learn_sigmas": False}


def client(guarded: bool = False, host_api: bool = True) -> TestClient:
    """A server with the host's own route, behind a password or not."""
    app = FastAPI()

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
        if (credentials.username, credentials.password) != ("me", "secret"):
            raise HTTPException(401, "Incorrect username or password")

    if host_api:
        guards = [Depends(check)] if guarded else []
        app.add_api_route(api.MODEL_ROUTE, lambda: None, methods=["POST"], dependencies=guards)
    api.add_routes(None, app)
    return TestClient(app)


def test_distill_and_list(webui: Host) -> None:
    web = client()
    assert web.get("/dode/v1/tables").json() == {"tables": []}
    answer = web.post("/dode/v1/distill", json=BODY)
    assert answer.status_code == 200, answer.text
    (made,) = answer.json()["tables"]
    assert answer.json()["file"] == "checkpoints/model.dode.json" and webui.sidecar.exists()
    assert made["solver"] == "ddim" and made["steps"] == made["evaluations"] == 4
    other = webui.folder / "dode" / "other.dode.json"
    dode.save_tables(other, [made_up("deis", model_fingerprint="file:1111111111111111")])
    listed = web.get("/dode/v1/tables").json()["tables"]
    assert [(each["file"], each["for_loaded_checkpoint"]) for each in listed] == [
        ("checkpoints/model.dode.json", True),
        ("dode/other.dode.json", False),
    ]
    assert listed[0] == {
        "file": "checkpoints/model.dode.json",
        "for_loaded_checkpoint": True,
        **made,
    }


def test_an_image_with_a_table_that_is_not_there(webui: Host) -> None:
    """The sentence is in the answer, wherever the sampler runs in the host's route."""

    def txt2img(table: str) -> dict[str, Any]:
        chosen, _ = options.read(table, 1.0)
        name = "D-ODE Karras" if webui.kind == "classic" else "D-ODE"
        p = webui.txt2img(4, name, dode_options=chosen, is_api=True)
        return {"info": p.extra_generation_params}

    app = FastAPI()
    app.add_api_route(api.MODEL_ROUTE, txt2img, methods=["POST"])
    web = TestClient(app)
    answer = web.post(api.MODEL_ROUTE, params={"table": "0badc0de"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("Table '0badc0de' is not among the table files here")
    answer = web.post(api.MODEL_ROUTE, params={"table": "Automatic"})
    assert answer.status_code == 200
    assert answer.json()["info"]["D-ODE match"] == "uncalibrated"


def test_the_hosts_own_guard(webui: Host) -> None:
    web = client(guarded=True)
    for auth in (None, ("me", "wrong")):
        assert web.get("/dode/v1/tables", auth=auth).status_code == 401
        assert web.post("/dode/v1/distill", json=BODY, auth=auth).status_code == 401
    assert not webui.sidecar.exists()
    assert web.get("/dode/v1/tables", auth=("me", "secret")).status_code == 200


def test_no_routes_where_the_host_has_no_api(webui: Host) -> None:
    """There would be nothing to guard them."""
    assert client(host_api=False).get("/dode/v1/tables").status_code == 404


@pytest.mark.parametrize(
    ("raw", "status", "said"),
    [
        (b"[]", 422, "JSON object"),
        (b"{", 422, "not valid JSON"),
        (b"\xff\xfe", 422, "not valid JSON"),
        (b'{"steps": "9-4"}', 422, "low before high"),
        (b'{"filename": "../../x"}', 422, "'filename' is unknown"),
        (b'{"cfg": NaN}', 422, "use a number"),
        (b"[" * 100_000, 422, "not valid JSON"),
        (b" " * (api.MAX_BODY + 1), 422, "larger than"),
    ],
)
def test_bodies_are_checked(webui: Host, raw: bytes, status: int, said: str) -> None:
    answer = client().post("/dode/v1/distill", content=raw)
    assert answer.status_code == status and said in answer.json()["detail"]
    assert not webui.sidecar.exists()


def test_busy_cancelled_and_failed(webui: Host) -> None:
    web = client()
    with webui.call_queue.queue_lock:
        running = distill.begin(api.from_mapping(BODY))
        assert web.post("/dode/v1/distill", json=BODY).status_code == 409
        running.cancel()
    assert running.ended.wait(60)
    webui.fail = webui.shared.state.interrupt
    answer = web.post("/dode/v1/distill", json=BODY)
    assert answer.status_code == 409 and "nothing was written" in answer.json()["detail"]

    def broken() -> None:
        raise RuntimeError("broken")

    webui.fail = broken
    answer = web.post("/dode/v1/distill", json=BODY)
    assert answer.status_code == 500 and answer.json()["detail"] == "RuntimeError: broken"
    webui.fail = lambda: None
    assert web.post("/dode/v1/distill", json=BODY).status_code == 200


def test_the_server_answers_meanwhile(webui: Host) -> None:
    web, answers = client(), []
    running = threading.Event()
    go_on = threading.Event()

    def hold() -> None:
        running.set()
        assert go_on.wait(60)

    webui.fail = hold
    poster = threading.Thread(
        target=lambda: answers.append(web.post("/dode/v1/distill", json=BODY))
    )
    poster.start()
    assert running.wait(60)
    assert web.get("/dode/v1/tables").status_code == 200
    current = job.current()
    assert current is not None and current.state == job.RUNNING
    go_on.set()
    poster.join(60)
    assert answers[0].status_code == 200


def test_garbage_files_are_left_out(webui: Host) -> None:
    webui.sidecar.write_text("{}")
    fingerprint = f"file:{file_fingerprint(webui.checkpoint)}"
    file = webui.folder / "dode" / "mine.dode.json"
    dode.save_tables(file, [made_up("ddim", model_fingerprint=fingerprint)])
    listed: list[dict[str, Any]] = client().get("/dode/v1/tables").json()["tables"]
    assert [each["file"] for each in listed] == ["dode/mine.dode.json"]
    assert listed[0]["for_loaded_checkpoint"]
