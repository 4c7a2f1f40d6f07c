"""One progress bar over a node's whole work, with a live preview of what is denoised."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management as management
import comfy.utils
import latent_preview
from torch import Tensor

from .cost import sentence
from .telling import Teller

LATENT_RANKS = (4, 5)  # images and video; what is packed cannot be shown


class Live:
    """The bar of one node; previews are as ComfyUI is set up to make them, or none.

    ``teller``: of a node that ends with a picture of its own. Its previews go where its report
    will stand, since the front end would keep the last one beside that picture.
    """

    def __init__(self, patcher: Any, teller: Teller | None = None) -> None:
        self.bar = comfy.utils.ProgressBar(1)
        self.previewer = make_previewer(patcher)
        self.note = ""  # what is to be said of the work when it is done
        self.teller = teller

    def __call__(self, done: int, total: int, denoised: Tensor) -> None:
        """Show how far the work is. Raises the host's own exception when it was interrupted."""
        management.throw_exception_if_processing_interrupted()
        if self.teller is None:
            self.bar.update_absolute(done, total, self._preview(denoised))
            return
        before, parts = self.teller.before, self.teller.parts_left
        self.bar.update_absolute(before + done, before + total * parts)
        self.teller.update(done, total, lambda: (self._preview(denoised) or (None, None))[1])

    def begin(self, phase: str) -> None:
        """What is done next, in words."""
        if self.teller is not None:
            self.teller.begin(phase)

    def expect(self, count: int, seconds: float) -> None:
        """Say what the work will cost before it begins: evaluations, and seconds for each.

        Of work in parts it is that of all that are left, each taken to be as long as this one.
        """
        title, left = (self.teller.title, self.teller.parts_left) if self.teller else ("", 1)
        cost = sentence(count * left, seconds)
        logging.info("D-ODE: %s: %s.", title or "distilling", cost)
        if self.teller is not None:
            self.teller.expect(cost)

    def say(self, note: str) -> None:
        """A warning, for the log now and for the report at the end; "" is none."""
        self.note = note
        if note:
            logging.warning("D-ODE: %s.", note)

    def end(self) -> None:
        """The work that was told of is done; the node goes on with other work."""
        if self.teller is not None:
            self.teller.end()

    def _preview(self, denoised: Tensor) -> Any:
        """What the host's progress hook takes as a preview, (format, PIL image, size), or None."""
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
