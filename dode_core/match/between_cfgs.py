"""Tables between guidance scales: a polynomial in cfg through two or three calibrated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..solve.noise import from_minus_log_snr, minus_log_snr, same_sigmas
from ..solve.stages import LookAhead
from ..tables.table import LambdaTable

SAME_CFG = 0.005
MAX_RELATIVES = 3
WIDEST = 3.0  # the higher cfg by the lower of two profiles: from 1 to 5 a mixture was worse
MAX_SHIFT = 0.5  # of the gap to its neighbour: further apart, learned nodes are other solutions


def cfg_note(made: float | None, asked: float | None) -> str:
    """What is to be said where a run's cfg is not the one that something was made at; else ""."""
    if made is None or asked is None or abs(made - asked) <= SAME_CFG:
        return ""
    return f"made at cfg {made:g}, this run uses {asked:g}"


def between(tables: Sequence[LambdaTable], table: LambdaTable, cfg: float) -> LambdaTable | None:
    """``table`` at a cfg that nobody calibrated, or None where its relatives do not enclose it.

    Lagrange's polynomial through the (at most three) relatives nearest in cfg, in every lambda and,
    for learned sigmas, in every inner sigma in minus log-SNR, the look ahead's
    and its mean included. Never extrapolates.
    The result claims no errors.
    """
    found = _nearest(_relatives(tables, table), cfg)
    known = [other.cfg for other in found if other.cfg is not None]
    if len(found) < 2 or not min(known) < cfg < max(known):
        return None
    for count in range(len(found), 1, -1):  # the two that enclose it come first
        if (mixed := _mixed(found[:count], table, cfg)) is not None:
            return mixed
    return None


def _mixed(
    found: Sequence[LambdaTable], table: LambdaTable, cfg: float, far: bool = False
) -> LambdaTable | None:
    """The polynomial through these tables; None where their nodes lie too far apart for one.

    ``far``: however far apart they lie.
    """
    weights = torch.tensor(
        _lagrange([other.cfg or 0.0 for other in found], cfg), dtype=torch.float64
    )
    lambdas = torch.einsum("t,tkc->kc", weights, torch.stack([t.lambdas for t in found]))
    sigmas, ahead = table.sigmas, table.look_ahead
    if table.learned_sigmas:
        inner = torch.stack([_line(other) for other in found])
        if not far and not _close(inner):
            return None
        nodes = [from_minus_log_snr(u, table.parametrization) for u in (weights @ inner).tolist()]
        if ahead is not None:
            means = [other.look_ahead.mean for other in found if other.look_ahead]
            mean = weights @ torch.tensor(means, dtype=torch.float64)
            ahead = LookAhead(nodes.pop(0), tuple(mean.tolist()))
            if not ahead.sigma < float(sigmas[0]):
                return None
        sigmas = sigmas.clone()
        sigmas[1:-1] = torch.tensor(nodes)
    changed = {"lambdas": lambdas, "sigmas": sigmas, "look_ahead": ahead}
    return replace(table, **changed, cfg=cfg, errors=None, zeroed=())


def mixed(a: LambdaTable, b: LambdaTable, cfg: float) -> LambdaTable | None:
    """What two profiles make of one run at a cfg between theirs; None where they are not alike, or
    their cfgs lie too far apart.

    A line in every lambda and inner sigma. Unlike tables that were learned apart, those of
    profiles were measured to mix also where their sigmas lie apart (docs/benchmarks.md).
    """
    sizes = [len(table.look_ahead.mean) if table.look_ahead else None for table in (a, b)]
    alike = a.scheme == b.scheme and a.lambdas.shape == b.lambdas.shape and sizes[0] == sizes[1]
    low, high = sorted((a.cfg or 0.0, b.cfg or 0.0))
    if not alike or high > WIDEST * low or not (a.lambdas.any() and b.lambdas.any()):
        return None  # without lambdas: built-in rows
    return _mixed([a, b], a, cfg, far=True)


def _relatives(tables: Sequence[LambdaTable], table: LambdaTable) -> list[LambdaTable]:
    """Tables that differ from ``table`` in their cfg alone, and in sigmas where those are learned.

    One a cfg, the last, and ``table`` itself for its own.
    """
    own, found = _kind(table), {}
    for other in (*tables, table):
        if other.cfg is None or _kind(other) != own:
            continue
        a, b = table.sigmas.tolist(), other.sigmas.tolist()
        ends = table.learned_sigmas and same_sigmas((a[0], a[-1]), (b[0], b[-1]))
        if same_sigmas(a, b) or ends:
            found[round(other.cfg, 4)] = other
    return list(found.values())


def _kind(table: LambdaTable) -> tuple[object, ...]:
    shape = tuple(table.lambdas.shape)
    what = table.scheme, table.learned_sigmas
    channels = len(table.look_ahead.mean) if table.look_ahead else None
    return *what, channels, shape, table.model_fingerprint


def _nearest(tables: Sequence[LambdaTable], cfg: float) -> list[LambdaTable]:
    """The nearest on either side, then the next nearest."""

    def distance(table: LambdaTable) -> float:
        return (table.cfg or 0.0) - cfg

    ranked = sorted(tables, key=lambda table: abs(distance(table)))
    below = [table for table in ranked if distance(table) < 0]
    above = [table for table in ranked if distance(table) > 0]
    first = [*below[:1], *above[:1]]
    rest = [table for table in ranked if all(table is not other for other in first)]
    return [*first, *rest][:MAX_RELATIVES]


def _lagrange(nodes: Sequence[float], at: float) -> list[float]:
    weights = []
    for i, own in enumerate(nodes):
        weight = 1.0
        for j, other in enumerate(nodes):
            if i != j:
                weight *= (at - other) / (own - other)
        weights.append(weight)
    return weights


def _line(table: LambdaTable) -> Tensor:
    inner = table.sigmas[1:-1].tolist()
    if table.look_ahead is not None:
        inner.insert(0, table.look_ahead.sigma)
    return torch.tensor(
        [minus_log_snr(s, table.parametrization) for s in inner], dtype=torch.float64
    )


def _close(inner: Tensor) -> bool:
    """Whether nodes of the same number lie together, compared with the gaps between numbers."""
    if inner.shape[1] < 2:
        return True
    spread = inner.max(0).values - inner.min(0).values
    gap = (inner[:, :-1] - inner[:, 1:]).min(0).values
    room = torch.minimum(torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]]))
    return bool((spread < MAX_SHIFT * room).all())
