"""One progress bar over a node's whole work, with a live preview of what is denoised."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management as management
import comfy.utils
import latent_preview
from torch import Tensor

LATENT_RANKS = (4, 5)  # images and video; what is packed cannot be shown


class Live:
    """The bar of one node; previews are as ComfyUI is set up to make them, or none."""

    def __init__(self, patcher: Any) -> None:
        self.bar = comfy.utils.ProgressBar(1)
        self.previewer = make_previewer(patcher)

    def update(self, done: int, total: int, denoised: Tensor) -> None:
        """Show how far the work is. Raises the host's own exception when it was interrupted."""
        management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, total, self._preview(denoised))

    def finish(self, picture: Any) -> None:
        """End with the node's own picture: the last preview stays on top of its output."""
        if self.previewer is not None and picture is not None:
            self.bar.update_absolute(self.bar.total, self.bar.total, ("PNG", picture, None))

    def _preview(self, denoised: Tensor) -> Any:
        """What the host's progress hook takes as a preview, or None."""
        if denoised.is_nested:  # newer hosts unpack it for callbacks
            denoised = denoised.unbind()[0]
        if self.previewer is None or denoised.ndim not in LATENT_RANKS:
            return None
        try:
            return self.previewer.decode_latent_to_preview_image("JPEG", denoised[:1])
        except Exception:  # a preview is never worth the run
            logging.exception("D-ODE: no live preview of a latent %s.", tuple(denoised.shape))
            self.previewer = None
            return None


def make_previewer(patcher: Any) -> Any:
    """The host's previewer for a MODEL, None where previews are off or cannot be made."""
    try:
        return latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)
    except Exception:
        logging.exception("D-ODE: no live previews.")
        return None
