"""How much memory tensors take while something runs, on any device, counted exactly."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Memory(TorchDispatchMode):
    """Bytes of the tensors that are alive, at most: every storage counts once."""

    def __init__(self) -> None:
        super().__init__()
        self.users: Counter[int] = Counter()
        self.live = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        pointer, size = storage.data_ptr(), storage.nbytes()
        if not self.users[pointer]:
            self.live += size
            self.peak = max(self.peak, self.live)
        self.users[pointer] += 1
        weakref.finalize(tensor, self.remove, pointer, size)

    def remove(self, pointer: int, size: int) -> None:
        self.users[pointer] -= 1
        if not self.users[pointer]:
            self.live -= size


def peak(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Copies of x that are alive at most while a sampler runs on it, x itself not counted."""
    with Memory() as memory:
        run(x)
    return memory.peak / x.untyped_storage().nbytes()
