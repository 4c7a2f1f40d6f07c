"""The one distillation at a time: a thread that can be watched, and cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dode_core.errors import DodeError

from . import host

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
WARM_UP = 2  # model calls left out of the estimate: the first ones load and compile


class Busy(DodeError):
    """Another distillation is under way."""


class Cancelled(DodeError):
    """The user stopped it; nothing was written."""


@dataclass
class Clock:
    """An estimate from the time that model calls have taken so far."""

    now: Callable[[], float] = time.monotonic
    part: str = ""
    done: int = 0
    total: int = 0
    began: float = 0.0
    first: int = 0

    def update(self, done: int, total: int, part: str) -> None:
        if part != self.part or done < self.done:
            self.part, self.first, self.began = part, done + WARM_UP, 0.0
        if not self.began and done >= self.first:
            self.began, self.first = self.now(), done
        self.done, self.total = done, total

    def left(self) -> float | None:
        """Seconds left of this part at most, None before there is anything to judge by."""
        calls = self.done - self.first
        if not self.began or calls <= 0:
            return None
        return (self.now() - self.began) / calls * (self.total - self.done)

    def text(self) -> str:
        """Where it stands, for people."""
        if not self.total:
            return "preparing"
        left = self.left()
        ends = (
            "measuring the time" if left is None else f"at most {duration(left)} left in this part"
        )
        return f"{self.part}: {self.done} of at most {self.total} model calls, {ends}"


def duration(seconds: float) -> str:
    """Rounded up, as people say it."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


@dataclass
class Job:
    """One distillation in a thread of its own; ``result`` or ``error`` is its outcome."""

    work: Callable[[Job], Any]
    state: str = WAITING
    clock: Clock = field(default_factory=Clock)
    message: str = ""
    result: Any = None
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Stop within one model call; before its turn has come, at once."""
        self.stop.set()

    def progress(self, done: int, total: int, part: str) -> None:
        """Called after every model call; raises to stop."""
        self.clock.update(done, total, part)
        if self.stop.is_set() or host.interrupted():
            raise Cancelled("Cancelled; nothing was written.")

    def run(self) -> None:
        try:
            self.result = self.work(self)
            self.state = DONE
        except Cancelled as error:
            self.state, self.error = CANCELLED, error
        except BaseException as error:  # kept for whoever waits; this is the thread's end
            self.state, self.error = FAILED, error
        finally:
            self.ended.set()

    def status(self) -> str:
        """One line for people."""
        if self.stop.is_set() and not self.ended.is_set():
            return "cancelling ..."
        if self.state == WAITING:
            return "waiting for the running job to finish"
        if self.state == RUNNING:
            return self.message or self.clock.text()
        if self.state == DONE:
            return "done"
        return str(self.error) or type(self.error).__name__


_current: Job | None = None
_guard = threading.Lock()


def start(work: Callable[[Job], Any]) -> Job:
    """Begin; raises :class:`Busy` while another one is under way."""
    global _current
    with _guard:
        if _current is not None and not _current.ended.is_set():
            raise Busy("A distillation is under way already; wait for it, or cancel it.")
        job = Job(work)
        _current = job
    threading.Thread(target=job.run, name="dode-distill", daemon=True).start()
    return job


def current() -> Job | None:
    """The last one that was started."""
    return _current
