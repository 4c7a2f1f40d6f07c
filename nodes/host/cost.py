"""What a distillation costs, before it begins: one evaluation timed, and the words for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...dode_core.fit.guarded import args_of
from ...dode_core.fit.memory import free_memory, ran_out_of_memory
from ...dode_core.solve.integrate import begin_run
from .telling import in_words


@torch.no_grad()
def seconds_each(
    model: Callable[..., Tensor],
    x: Tensor,
    sigma: float,
    extra_args: Mapping[str, Any],
    batch_size: int,
) -> float:
    """What one evaluation of one sample takes, in a batch as the work's. Asks the model once.

    x: noise at ``sigma``, shape (B, ...). The model is loaded and has been asked before.
    """
    begin_run(model, [sigma, 0.0])
    for size in (min(batch_size, len(x)), 1):
        args = args_of(extra_args, slice(size), len(x))
        began = time.monotonic()
        try:
            out = model(x[:size], x.new_full((size,), sigma), **args)
            float(out.flatten()[0])  # waits for the device
            return (time.monotonic() - began) / size
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
        free_memory()  # outside of the except block, whose traceback keeps tensors alive
    raise AssertionError("unreachable")


def sentence(count: int, seconds: float) -> str:
    """ "at most 1,168 model evaluations, about 4 min here (one takes 0.18 s)"."""
    whole = in_words(count * seconds)
    return f"at most {count:,} model evaluations, {whole} here (one takes {seconds:.2g} s)"
