"""ComfyUI's HTTP and websocket interface, as its front end uses it."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import requests
import websocket
from PIL import Image

Event = tuple[str, Any]

# protocol.py of ComfyUI: the kinds of binary message.
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4


class ComfyError(RuntimeError):
    """What ComfyUI refused or failed at; `details` is its own JSON."""

    def __init__(self, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class ComfyInterrupted(ComfyError):
    """The run was stopped by an interrupt."""


class Run:
    """One queued prompt and everything the server said about it."""

    def __init__(self, client: Client, prompt_id: str) -> None:
        self.client = client
        self.prompt_id = prompt_id
        self.events: list[Event] = []
        self.node_errors: dict[str, Any] = {}
        """Outputs left out because they did not validate, while others did."""
        self._news = threading.Condition()

    def add(self, kind: str, data: Any) -> None:
        """Record an event; called by the thread that listens."""
        with self._news:
            self.events.append((kind, data))
            self._news.notify_all()

    def until(self, predicate: Callable[[str, Any], bool], timeout: float = 60) -> Event:
        """Return the first event, past or to come, for which `predicate(kind, data)` is true.

        Raises:
            ComfyError: the run or the server ended without such an event.
            TimeoutError: it has not come after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        seen = 0
        with self._news:
            while True:
                for event in self.events[seen:]:
                    seen += 1
                    if predicate(*event):
                        return event
                    if ends_run(*event):
                        raise ComfyError(f"The run ended without the event; it had {self.kinds()}")
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TimeoutError(f"No such event in {timeout} s; the run had {self.kinds()}")
                self._news.wait(remaining)

    def wait(self, timeout: float = 300) -> dict[str, Any]:
        """Wait for the end of the run and return its entry in ComfyUI's history.

        Raises:
            ComfyInterrupted: it was interrupted.
            ComfyError: a node raised; the message is the node's.
        """
        kind, _ = self.until(ends_run, timeout)
        if kind == "closed":
            raise ComfyError("The server went away during the run.")
        entry = self.client.get(f"/history/{self.prompt_id}")[self.prompt_id]
        for kind, data in entry["status"]["messages"]:
            if kind == "execution_interrupted":
                raise ComfyInterrupted("The run was interrupted.", data)
            if kind == "execution_error":
                node = f"{data['node_type']} (node {data['node_id']})"
                raise ComfyError(f"{node}: {data['exception_message'].strip()}", data)
        return entry

    def output(self, node_id: str) -> dict[str, Any]:
        """Wait, and return what node `node_id` handed to the front end."""
        return self.wait()["outputs"][node_id]

    def kinds(self) -> list[str]:
        """Return the kinds of event so far, in order."""
        return [kind for kind, _ in self.events]


def ends_run(kind: str, data: Any) -> bool:
    """Whether this is the last event of a run: by then its history entry is written."""
    return kind == "closed" or (kind == "executing" and data["node"] is None)


class Client:
    """A connection to a running server. It listens on a thread of its own until closed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.id = str(uuid.uuid4())
        self.http = requests.Session()
        self.http.trust_env = False  # the server is on this machine, whatever the proxy
        self._runs: dict[str, Run] = {}
        self._current: str | None = None
        self._socket = websocket.create_connection(
            f"ws://{address}/ws?clientId={self.id}", http_no_proxy=["*"]
        )
        # Without this the server sends previews that do not say which node they belong to.
        flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        self._socket.send(json.dumps(flags))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._listener.join(timeout=10)
        self.http.close()

    def get(self, path: str, **query: str) -> Any:
        """GET a JSON document."""
        answer = self.http.get(f"http://{self.address}{path}", params=query, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def download(self, path: str, **query: str) -> bytes:
        """GET a file."""
        answer = self.http.get(f"http://{self.address}{path}", params=query, timeout=60)
        answer.raise_for_status()
        return answer.content

    def post(self, path: str, **arguments: Any) -> requests.Response:
        """POST; the arguments are those of `requests.post`."""
        return self.http.post(f"http://{self.address}{path}", timeout=60, **arguments)

    def queue(self, prompt: dict[str, Any]) -> Run:
        """Queue a prompt in API format.

        Raises:
            ComfyError: ComfyUI found it invalid; the message holds every node's complaint.
        """
        # Our own id, so that the run is known before its first event can arrive.
        run = Run(self, str(uuid.uuid4()))
        self._runs[run.prompt_id] = run
        body = {"prompt": prompt, "client_id": self.id, "prompt_id": run.prompt_id}
        answer = self.post("/prompt", json=body)
        if answer.status_code == 400:
            raise ComfyError(validation_text(answer.json()), answer.json())
        answer.raise_for_status()
        run.node_errors = answer.json()["node_errors"]
        return run

    def _listen(self) -> None:
        try:
            while message := self._socket.recv():
                if isinstance(message, bytes):
                    self._deliver(*read_binary(message))
                else:
                    event = json.loads(message)
                    self._deliver(event["type"], event.get("data"))
        except (OSError, websocket.WebSocketException):
            pass  # closed, by the server's end or by ours
        finally:
            for run in list(self._runs.values()):
                run.add("closed", None)

    def _deliver(self, kind: str, data: Any) -> None:
        prompt_id = data.get("prompt_id") if isinstance(data, dict) else None
        if kind == "execution_start":
            self._current = prompt_id
        # Text carries no prompt id; ComfyUI runs one prompt at a time, so it is the current one.
        run = self._runs.get(prompt_id or self._current or "")
        if run is not None:
            run.add(kind, data)


def read_binary(message: bytes) -> Event:
    """Decode a binary message: a preview image or a node's progress text."""
    (kind,), body = struct.unpack(">I", message[:4]), message[4:]
    (first,) = struct.unpack(">I", body[:4])
    if kind == TEXT:
        node, text = body[4 : 4 + first].decode(), body[4 + first :].decode()
        return "progress_text", {"node": node, "text": text}
    if kind == PREVIEW_WITH_METADATA:
        metadata = json.loads(body[4 : 4 + first])
        return "preview", {**metadata, "image": Image.open(io.BytesIO(body[4 + first :]))}
    if kind == PREVIEW:
        return "preview", {"image": Image.open(io.BytesIO(body[4:]))}
    return "binary", {"kind": kind, "body": body}


def validation_text(refusal: dict[str, Any]) -> str:
    """Join the sentences of a refused prompt into one message, one line each."""
    lines = [
        f"{node['class_type']} (node {node_id}): {problem['message']}: {problem['details']}"
        for node_id, node in refusal["node_errors"].items()
        for problem in node["errors"]
    ]
    error = refusal["error"]
    return "\n".join(lines) or f"{error['message']}: {error['details']}"
