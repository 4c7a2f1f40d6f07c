"""Work on the thread that keeps the models, where the host has one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from . import host

Result = TypeVar("Result")
TASK_PATIENCE = 30.0  # seconds until a thread that takes no task is taken for dead


def on_main_thread(body: Callable[[], Result]) -> Result:
    """Run ``body`` where the host keeps its models: Forge and its kin have one thread for that.

    Whatever ``body`` raises comes back, interrupts included: left to the hosts, some swallow an
    exception and some lose the thread over it. Not to be called on that thread, which would wait
    for itself. Where nobody takes tasks, this thread does the work.
    """
    outcome: list[tuple[Result | None, BaseException | None]] = []
    claim, taken, done = threading.Lock(), threading.Event(), threading.Event()

    def kept() -> None:
        if not claim.acquire(blocking=False):
            return  # the other one has it
        taken.set()
        try:
            outcome.append((body(), None))
        except BaseException as error:
            outcome.append((None, error))
        done.set()

    thread = host.optional("modules_forge.main_thread")
    if thread is not None:
        run = thread.run_and_wait_result
        threading.Thread(target=run, args=(kept,), name="dode-task", daemon=True).start()
        taken.wait(TASK_PATIENCE)
    kept()
    done.wait()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
