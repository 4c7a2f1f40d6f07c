"""HTTP: ``POST /dode/v1/distill`` and ``GET /dode/v1/tables``, guarded as the host's own API is."""

from __future__ import annotations

import json
import logging
from typing import Any

from dode_core.errors import DodeError

from . import distill, host, job, options
from .request import from_mapping

MAX_BODY = 2 * 1024 * 1024
MODEL_ROUTE = "/sdapi/v1/txt2img"  # has the dependencies that guard every route of the host


def add_routes(demo: Any, app: Any) -> None:
    """Called by the host when its server runs, with or without the UI.

    Without the host's own API (``--api``) nothing is added: there would be nothing to guard it.
    """
    own = next((each for each in app.routes if getattr(each, "path", "") == MODEL_ROUTE), None)
    if own is None:
        return
    guards = list(getattr(own, "dependencies", []))
    for path, endpoint, method in (
        ("/dode/v1/distill", post_distill(), "POST"),
        ("/dode/v1/tables", get_tables(), "GET"),
    ):
        app.add_api_route(path, endpoint, methods=[method], dependencies=guards)


def post_distill() -> Any:
    """The endpoint: blocks until the tables are there, as the host's own do.

    ``GET /sdapi/v1/progress`` and ``POST /sdapi/v1/interrupt`` serve it as well.
    """
    from fastapi import HTTPException, Request
    from starlette.concurrency import run_in_threadpool

    async def distill_tables(request: Request) -> dict[str, Any]:
        try:
            wanted = from_mapping(decoded(await bounded(request)))
            running = distill.begin(wanted, pictures=False)
        except job.Busy as error:
            raise HTTPException(409, str(error)) from error
        except DodeError as error:
            raise HTTPException(422, str(error)) from error
        await run_in_threadpool(running.ended.wait)
        if running.state == job.DONE:
            return answer(running.result)
        if running.state == job.CANCELLED:
            raise HTTPException(409, running.status())
        if isinstance(running.error, DodeError):
            raise HTTPException(422, running.status())
        logging.error("D-ODE: distillation failed", exc_info=running.error)
        raise HTTPException(500, f"{type(running.error).__name__}: {running.status()}")

    # FastAPI reads annotations, which are texts here and mean nothing at module level.
    distill_tables.__annotations__ = {"request": Request, "return": dict}
    return distill_tables


def get_tables() -> Any:
    """The endpoint: every table that can be chosen, those of the loaded checkpoint marked."""

    def list_tables() -> dict[str, Any]:
        library = host.library()
        own = {stored.table for stored in library.find(host.identity(upcoming=True))}
        return {
            "tables": [
                {
                    "file": library.shown(stored.file),
                    "for_loaded_checkpoint": stored.table in own,
                    **facts(stored.table),
                }
                for stored in options.everything(library)
            ]
        }

    list_tables.__annotations__ = {"return": dict}
    return list_tables


async def bounded(request: Any) -> bytes:
    """The body, refused as soon as it is too large."""
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise DodeError(f"The body is larger than {MAX_BODY} bytes.")
    return raw


def decoded(raw: bytes) -> Any:
    """JSON, nothing else; an empty body asks for the defaults."""
    try:
        return json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise DodeError(f"The body is not valid JSON ({str(error)[:100]}).") from error


def facts(table: Any) -> dict[str, Any]:
    """What a table is, for programs."""
    errors = table.errors
    return {
        "id": options.table_id(table),
        "solver": table.solver,
        "steps": table.steps,
        "evaluations": len(table.stages),
        "cfg": table.cfg,
        "learned_sigmas": table.learned_sigmas,
        "sigmas": table.sigmas.tolist(),
        "model": table.model_name,
        "error_plain": errors.plain_holdout if errors else None,
        "error_distilled": errors.distilled_holdout if errors else None,
        "helps": table.helps,
        "description": table.describe(),
    }


def answer(outcome: distill.Outcome) -> dict[str, Any]:
    """What a distillation left behind."""
    return {
        "tables": [facts(table) for table in outcome.tables],
        "file": outcome.shown,
        "note": outcome.note,
        "seconds": round(outcome.seconds, 3),
    }
