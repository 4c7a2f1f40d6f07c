"""What stands on the page follows a switch of checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import captured, host, watching

wired: set[str] = set()  # the widgets that tell of a switch, by elem_id, anew with every UI
following: list[Callable[[Any], None]] = []  # has something follow such a widget


def capture(component: Any, elem_id: str | None) -> None:
    """Called after every component of every tab: those that tell of a switch of checkpoint.

    gradio 4 makes a component anew whenever its menu changes, outside of any page: only the first
    can be wired.
    """
    if elem_id in (captured.CHECKPOINT, captured.SETTINGS) and elem_id not in wired:
        wired.add(str(elem_id))
        for wire in following:
            wire(component)


def followed(show: Callable[..., list[Any]], inputs: list[Any], outputs: list[Any]) -> None:
    """Have outputs follow a switch of checkpoint, by what ``show`` makes of the inputs."""

    def switched(*values: Any) -> list[Any]:
        with host.clicked_on(values[-1]):
            return show(*values[:-1])

    following.append(lambda menu: watching.live(menu, switched, [*inputs, menu], outputs))


def reset() -> None:
    """Old widgets are forgotten."""
    wired.clear()
    following.clear()
