"""What the manager in the front end asks the server: the list, and delete, rename, export.

Only JSON is taken, which another site's page cannot send unasked; ids are looked up in the list,
and a new name is a plain file name in the same folder.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from server import PromptServer

from ...dode_core.errors import DodeError
from . import shelf_list

PREFIX = "/dode/tables"
MOST = 64 * 1024  # bytes of a request
DOES: dict[str, Callable[[dict[str, Any]], str]] = {
    "delete": lambda asked: shelf_list.delete(asked.get("id")),
    "rename": lambda asked: shelf_list.rename(asked.get("id"), asked.get("name")),
    "export": lambda asked: shelf_list.export(asked.get("id")),
}


def register() -> None:
    """Add the routes to the running server; none where there is no server."""
    server = getattr(PromptServer, "instance", None)
    known = [] if server is None else [getattr(each, "path", "") for each in server.routes]
    if server is None or PREFIX in known:  # the pack may be there twice
        return
    server.routes.get(PREFIX)(listed)
    server.routes.post(f"{PREFIX}/{{action}}")(done)


async def listed(request: web.Request) -> web.Response:
    """Every entry."""
    return web.json_response({"tables": await asyncio.to_thread(shelf_list.overview)})


async def done(request: web.Request) -> web.Response:
    """One action on one entry: {"text"} of what happened, or status 400 and {"error"}."""
    action = DOES.get(request.match_info["action"])
    if action is None:
        return refused("There is no such action; use delete, rename or export.", 404)
    if request.content_type != "application/json" or (request.content_length or MOST + 1) > MOST:
        return refused(f"Send a JSON object of at most {MOST} bytes.", 415)
    try:
        asked = await request.json()
    except ValueError:
        return refused("The request is no JSON object.")
    if not isinstance(asked, dict):
        return refused("The request is no JSON object.")
    try:
        text = await asyncio.to_thread(action, asked)
    except DodeError as error:
        return refused(str(error))
    logging.info("D-ODE: %s", text)
    return web.json_response({"text": text})


def refused(why: str, status: int = 400) -> web.Response:
    """What cannot be done, in a sentence."""
    return web.json_response({"error": why}, status=status)
