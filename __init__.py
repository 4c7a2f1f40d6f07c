"""D-ODE samplers for ComfyUI. Nothing is imported until ComfyUI asks for the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import DodeExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> DodeExtension:
    """What ComfyUI calls once at its start."""
    try:
        from .nodes import DodeExtension

        return DodeExtension()
    except Exception:
        import logging

        logging.exception("The D-ODE nodes could not be loaded.")  # ComfyUI shows only one line
        raise
