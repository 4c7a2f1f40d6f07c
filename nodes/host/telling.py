"""What a node says: a report that stays, progress while it runs, and a notice of a fallback.

All three are drawn by the pack's own part of the front end, ``web/report.js`` and
``web/notice.js``: the stock progress text is gone, or stays for good, when a job ends, depending
on the version.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from typing import Any

from comfy_api.latest import ui
from server import PromptServer
from torch import Tensor

PROGRESS, NOTICE = "dode.progress", "dode.notice"
EVERY = 0.3  # seconds between two messages, at least
SIDE, QUALITY = 192, 70  # of a live preview in a report


def report(text: str, image: Tensor | None = None, cls: Any = None) -> dict[str, Any]:
    """What NodeOutput's ``ui`` takes: text for the report, and a picture, (1, height, width, 3)."""
    if image is None:
        return {"text": (text,)}
    picture = ui.PreviewImage(image, cls=cls)
    return {**picture.as_dict(), "text": (text,)}


def send(event: str, **content: Any) -> None:
    """To the front end that queued the running job; to nobody where there is none."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(event, content, server.client_id)


def notice(text: str) -> None:
    """Say, where it is seen, that a run used no table or an inexact one."""
    send(NOTICE, text=text)


class Teller:
    """Tells a node's user what is being done, how far it is, and how long it will still take.

    Work may come in parts, of which each is taken to be as long as the one that is running.
    """

    def __init__(self, node: str | None, unit: str = "model calls") -> None:
        self.node, self.unit, self.title, self.phase, self.cost = node, unit, "", "", ""
        self.done = self.before = 0
        self.parts_left = 1
        self._sent = 0.0
        self._first: tuple[float, int] | None = None  # the end of the first call, which also loads

    def part(self, title: str, left: int = 1) -> None:
        """A part of the work begins; ``left``: how many there are still, this one included."""
        self.title, self.parts_left, self.before = title, left, self.done
        self.begin("")

    def begin(self, phase: str) -> None:
        """Say what comes next, in words."""
        self.phase = phase
        self._send(self._head())

    def expect(self, cost: str) -> None:
        """Say what the work will cost, and keep it in sight while it runs."""
        self.cost = cost
        self._send(self._head())

    def update(self, done: int, total: int, picture: Callable[[], Any] = lambda: None) -> None:
        """``done`` of at most ``total`` model calls of this part are made.

        ``picture`` makes a PIL image, or None; it is called when there is a message to send, and
        they come no faster than they can be read.
        """
        now, self.done = time.monotonic(), self.before + done
        self._first = self._first or (now, self.done)
        if now - self._sent < EVERY:
            return
        whole = self.before + total * self.parts_left
        far = f"{self.done:,} of at most {whole:,} {self.unit}{self._time(now, whole)}"
        self._send(f"{self._head()}\n{far}", picture())

    def end(self) -> None:
        """Take the progress away: the report stands there again."""
        self._send("")

    def _head(self) -> str:
        what = ", ".join(filter(None, [self.title, self.phase]))
        return "\n".join(filter(None, [what, self.cost]))

    def _time(self, now: float, whole: int) -> str:
        began, first = self._first or (now, self.done)
        if self.done <= first:
            return ""
        left = (now - began) / (self.done - first) * (whole - self.done)
        return f", {in_words(left)} left"

    def _send(self, text: str, picture: Any = None) -> None:
        self._sent = time.monotonic()
        if self.node is not None:
            send(PROGRESS, node=self.node, text=text, picture=as_url(picture))


def in_words(seconds: float) -> str:
    """A duration as one says it."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


def as_url(picture: Any) -> str:
    """A PIL image as the address of a small JPEG; empty for None."""
    if picture is None:
        return ""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
