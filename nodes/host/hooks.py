"""What the hooks of a prompt put on a model for the time that the prompt is asked about."""

from __future__ import annotations

from typing import Any

# Of a hook: what it is known by to the host, and what is for the text encoder.
NO_SETTING = ("hook_ref", "hook_id", "hook_keyframe", "custom_should_register")
NO_SETTING += ("weights_clip", "_strength_clip")


def prompt_hooks(guider: Any) -> list[tuple[str, Any]]:
    """(path, settings) of the hooks of a guider's prompts, as its conditioning has them.

    Read off the prompts, since the host puts hooks on a MODEL only for the time of a run.
    """
    conds = getattr(guider, "original_conds", None) or {}
    found = []
    for name in sorted(conds, key=str):
        for cond in conds[name] or ():
            group = cond.get("hooks") if isinstance(cond, dict) else None
            found += [(name, _settings(hook)) for hook in getattr(group, "hooks", None) or ()]
    return [("prompt/hooks", found)] if found else []


def _settings(hook: Any) -> dict[str, Any]:
    own = {name: value for name, value in vars(hook).items() if name not in NO_SETTING}
    frames = getattr(getattr(hook, "hook_keyframe", None), "keyframes", None) or ()
    times = [(getattr(f, "strength", None), getattr(f, "start_percent", None)) for f in frames]
    return {"kind": type(hook).__name__, "keyframes": times, **own}
