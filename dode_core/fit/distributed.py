"""One calibration over several processes: each runs its share of every micro-batch.

    torchrun --nproc-per-node=N -m dode_core distill ...

Only numbers per sample are exchanged, the inner products and squared errors, never states. Every
process then takes the same decisions from the same numbers, in the order of one process. Before
each exchange the processes say whether they are well, so that an error in one is an error in all.
Outside of :func:`ranks` everything here is the identity.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from torch import Tensor

from ..errors import CalibrationError, NotFiniteError

TIMEOUT_MINUTES = 30  # for the slowest process to reach the next exchange
_WELL, _NOT_FINITE, _FAILED = 0, 1, 2


class LostRankError(CalibrationError):
    """Another process of this run died or failed; nothing is written."""


class _Group:
    """The processes of one run; tensors travel on ``device``, where the backend wants them."""

    def __init__(self, rank: int, size: int, device: str) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.over = False  # an error has been told to all

    def tell(self, status: int, rows: int, sigma: float = 0.0, evaluations: int = 0) -> Tensor:
        """Everybody's (status, rows, sigma, evaluations), by rank."""
        own = torch.tensor([status, rows, sigma, evaluations], dtype=torch.float64)
        return torch.stack(self._all(own))

    def gather(self, values: Tensor) -> Tensor:
        """Everybody's rows, by rank."""
        heard = self.tell(_WELL, len(values))
        self.check(heard)
        counts = heard[:, 1].long().tolist()
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        return torch.cat([v[:n] for v, n in zip(self._all(padded), counts, strict=True)])

    def check(self, heard: Tensor) -> None:
        """Raise what any process has reported; its samples that are not finite are told next."""
        statuses = heard[:, 0].long().tolist()
        if _FAILED in statuses:
            self.over = True
            raise LostRankError(
                f"Process {statuses.index(_FAILED)} of {self.size} failed, see its own message; "
                "nothing was written."
            )
        if _NOT_FINITE in statuses:
            raise self.bad_samples(heard, [])

    def bad_samples(self, heard: Tensor, own: Sequence[int]) -> NotFiniteError:
        """The second half of reporting samples that are not finite: which they are, of all."""
        most = int(heard[:, 1].max())
        padded = torch.full((max(most, 1),), -1, dtype=torch.float64)
        padded[: len(own)] = torch.tensor(list(own), dtype=torch.float64)
        found = sorted({int(i) for row in self._all(padded) for i in row.tolist() if i >= 0})
        first = heard[heard[:, 0] == _NOT_FINITE][0]
        error = NotFiniteError(float(first[2]), found, int(heard[:, 3].max()))
        error.told = True
        return error

    def _all(self, values: Tensor) -> list[Tensor]:
        import torch.distributed as dist

        values = values.to(self.device)
        out = [torch.empty_like(values) for _ in range(self.size)]
        try:
            dist.all_gather(out, values.contiguous())
        except RuntimeError as error:  # what the backends raise when a connection is gone
            self.over = True
            raise LostRankError(
                f"Process {self.rank} of {self.size} lost the others: one of them died or hangs; "
                f"nothing was written ({str(error).splitlines()[0][:120]})."
            ) from error
        return [value.cpu() for value in out]


_group: _Group | None = None


def rank() -> int:
    """This process's number; 0 writes and reports."""
    return _group.rank if _group else 0


def size() -> int:
    """How many processes work together."""
    return _group.size if _group else 1


def gather(values: Tensor) -> Tensor:
    """The rows of all processes, by rank: (n, ...) to (sum of n, ...)."""
    return _group.gather(values) if _group else values


def total(value: Tensor) -> Tensor:
    """The sum over all processes, the same bits in each."""
    return _group.gather(value[None]).sum(0) if _group else value


def mine(values: Tensor, rows: int) -> Tensor:
    """The part of gathered ``values`` that this process's own ``rows`` are."""
    if _group is None:
        return values
    counts = _group.gather(torch.tensor([rows])).tolist()
    start = sum(counts[: _group.rank])
    return values[start : start + rows]


def share(part: slice) -> slice:
    """This process's rows of a micro-batch: contiguous, maybe none; together they are all."""
    n, k, rows = size(), rank(), part.stop - part.start
    low, high = -(-rows * k // n), -(-rows * (k + 1) // n)  # rounded up: 0 has some
    return slice(part.start + low, part.start + high)


def agreed(error: NotFiniteError) -> NotFiniteError:
    """Tell all processes of samples that are not finite; the same error in each."""
    if _group is None or error.told:
        return error
    heard = _group.tell(_NOT_FINITE, len(error.samples), error.sigma, error.evaluations)
    if _FAILED in heard[:, 0].long().tolist():
        _group.check(heard)
    return _group.bad_samples(heard, error.samples)


def all_well() -> None:
    """Wait for all processes; raises when one has failed. Before anything is written."""
    if _group is not None:
        _group.check(_group.tell(_WELL, 0))


@contextlib.contextmanager
def ranks(backend: str = "gloo", even_alone: bool = False) -> Iterator[None]:
    """Join the processes that torchrun started; alone, nothing changes.

    ``backend``: gloo exchanges on the CPU, whatever the models run on; nccl on the GPUs. An error
    in here is told to the others, which then raise :class:`LostRankError`. ``even_alone``: one
    process exchanges with itself, which shows on one GPU that a backend works.
    """
    global _group
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 and not even_alone:
        yield
        return
    import torch.distributed as dist

    if backend == "nccl" and not torch.cuda.is_available():
        raise CalibrationError("The backend nccl needs CUDA devices; use gloo.")
    dist.init_process_group(backend, timeout=timedelta(minutes=TIMEOUT_MINUTES))
    device = f"cuda:{local_rank()}" if backend == "nccl" else "cpu"
    _group = group = _Group(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield
    except BaseException:
        if not group.over:
            with contextlib.suppress(Exception):
                group.tell(_FAILED, 0)
        raise
    finally:
        _group = None
        with contextlib.suppress(Exception):
            dist.destroy_process_group()


def local_rank() -> int:
    """Which of this machine's devices is this process's."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def device() -> str:
    """The best device for this process: its own GPU, Apple's, or the CPU."""
    if torch.cuda.is_available():
        return f"cuda:{local_rank() % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"
