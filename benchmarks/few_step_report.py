"""Tables and plots of few_step's results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dode_core.report import plot_errors, save_figure, text_table

from .common import RESULTS
from .ours import DEFAULT

Results = Mapping[str, Any]
MEASURES = {"rms": "RMS", "median": "median", "frechet": "Frechet", "frechet_data": "to the data"}
PEERS = "best built-in peer on its best grid"
SHOWN = {
    DEFAULT: "D-ODE (columns and sigmas)",
    "ddim: columns": "D-ODE (columns)",
    "ddim: paper's D-": "D-DDIM, the paper's",
    "ddim: plain": "plain DDIM",
}


def write(done: Results) -> None:
    """Print what there is, and draw a plot for every problem."""
    problems = list(dict.fromkeys(key.split("/")[0] for key in done))
    rows = [row for problem in problems for row in against_peers(done, problem)]
    header = ["ours / best peer, ratio", *MEASURES.values(), "best peer by RMS, by median"]
    print(text_table(header, rows))
    header = ["ours, all", *MEASURES.values(), "fit / held out", "evaluations"]
    print(text_table(header, [row for problem in problems for row in all_of_ours(done, problem)]))
    for problem in problems:
        draw(done, problem)


def counts(done: Results, problem: str) -> list[int]:
    return sorted({int(key.split("/")[1]) for key in done if key.startswith(f"{problem}/")})


def best(peers: Results, measure: str) -> tuple[float, str]:
    """(the least value, whose it is) of the peers that were scored on all samples."""
    known = {label: found[measure] for label, found in peers.items() if measure in found}
    label = min(known, key=lambda label: known[label], default="")
    return known.get(label, float("nan")), label


def against_peers(done: Results, problem: str) -> Iterator[list[str]]:
    """Our default against the best peer, measure by measure."""
    for nfe in counts(done, problem):
        ours, peers = done.get(f"{problem}/{nfe}/{DEFAULT}"), done.get(f"{problem}/{nfe}/peers")
        if ours is None or peers is None:
            continue
        cells = []
        for measure in MEASURES:
            value, _ = best(peers, measure)
            own = ours.get(measure)
            digits = 4 if measure in ("rms", "median") else 2
            if own is None or math.isnan(value):
                cells.append("")
            else:
                cells.append(f"{own:.{digits}f} / {value:.{digits}f} = {own / value:.2f}")
        names = [best(peers, measure)[1] for measure in ("rms", "median")]
        yield [f"{problem}, {nfe} evaluations", *cells, "; ".join(dict.fromkeys(names))]


def all_of_ours(done: Results, problem: str) -> Iterator[list[str]]:
    for key, found in done.items():
        name, nfe, who = key.split("/", 2)
        if name != problem or "peers" in who:
            continue
        cells = [f"{found[m]:.4g}" if m in found else "" for m in MEASURES]
        fit = f"{found['fit']:.4f} / {found['holdout']:.4f}" if "fit" in found else ""
        spent = f"{found['evaluations']:.0f}" if "evaluations" in found else ""
        yield [f"{name}, {nfe}: {who}", *cells, fit, spent]


def draw(done: Results, problem: str, folder: Path = RESULTS) -> None:
    """RMS and median error against model evaluations."""
    for measure, title in (("rms", "RMS error"), ("median", "median error of a sample")):
        curves: dict[str, dict[int, float]] = {PEERS: {}}
        for nfe in counts(done, problem):
            peers = done.get(f"{problem}/{nfe}/peers")
            if peers is not None:
                curves[PEERS][nfe] = best(peers, measure)[0]
            for who, label in SHOWN.items():
                if (found := done.get(f"{problem}/{nfe}/{who}")) is not None:
                    curves.setdefault(label, {})[nfe] = found[measure]
        if not any(len(curve) > 1 for curve in curves.values()):
            continue
        figure = plot_errors(curves, f"Demo model, {problem}", f"{title}, to the converged samples")
        stem = problem.replace(", ", "_").replace(" ", "")
        save_figure(figure, folder / f"few_step_{stem}_{measure}.png")
