"""Which model is this? Its parametrisation, its guidance, and its identity."""

from __future__ import annotations

from typing import Any

from comfy.model_sampling import CONST
from comfy.samplers import CFGGuider

from ...dode_core.tables.identity import Identity, file_fingerprint, fingerprint
from .origin import Prompt, path_in_prompt, path_on_model
from .weights import patches_mark, weights_marks
from .wrapping import distilled_cfg, guider_mark, options_mark, sampling_marks

__all__ = [
    "Identity",
    "guidance",
    "highest_sigma",
    "identify",
    "known_parametrization",
    "parametrization",
]


def model_sampling(model: Any) -> Any:
    """The ``model_sampling`` of a MODEL, or of a denoiser as samplers get it; None where there is
    none.

    A denoiser is followed down its ``inner_model``: its own ``sigmas`` are the run's, which say
    nothing about the model.
    """
    for _ in range(8):
        if model is None:
            return None
        if hasattr(model, "get_model_object"):
            return model.get_model_object("model_sampling")
        own = getattr(model, "model_sampling", None)
        if own is not None:
            return own
        patcher = getattr(model, "model_patcher", None)
        model = getattr(model, "inner_model", None) if patcher is None else patcher
    return None


def known_parametrization(model: Any) -> str | None:
    """``flow`` for rectified flow (ComfyUI's CONST), else ``ve``: its x is x0 + sigma eps.

    Of a MODEL, or of a denoiser; None where no model's own sampling is to be found.
    """
    sampling = model_sampling(model)
    return None if sampling is None else "flow" if isinstance(sampling, CONST) else "ve"


def parametrization(patcher: Any) -> str:
    """A MODEL's parametrisation."""
    return known_parametrization(patcher) or "ve"


def highest_sigma(model: Any) -> float | None:
    """Where a run from pure noise starts; None where no model's own sampling is to be found."""
    high = getattr(model_sampling(model), "sigma_max", None)
    return None if high is None else float(high)


def guidance(guider: Any) -> float | None:
    """A guider's cfg; None where it has none, or where another number decides as well."""
    cfg = getattr(guider, "cfg", None)
    ours = getattr(type(guider), "set_cfg", CFGGuider.set_cfg) is CFGGuider.set_cfg
    return float(cfg) if ours and isinstance(cfg, int | float) else None


def identify(
    patcher: Any, prompt: Prompt | None = None, node_id: str | None = None, guider: Any = None
) -> Identity:
    """The identity of a MODEL that is used by node ``node_id`` of a workflow, with its guider.

    None for ``guider`` is the host's plain guidance.
    """
    path = path_on_model(patcher) or path_in_prompt(prompt or {}, node_id)
    name = path.name if path else getattr(patcher.model, "dode_name", type(patcher.model).__name__)
    weights, values = weights_marks(patcher)
    file = path or getattr(patcher.model, "dode_file", None)  # of ours: it is known by its file,
    marks = {
        "weights": weights,
        "values": values,
        "file": file_fingerprint(file) if file else "",  # but has nothing put beside it
        "patches": patches_mark(patcher),
        "options": options_mark(patcher, guider),
        "guider": guider_mark(guider),
        "distilled_cfg": distilled_cfg(guider),
        **sampling_marks(patcher),
    }
    known = "".join(c if c.isprintable() else "_" for c in name)
    return Identity(path, known, fingerprint(marks))
