"""The tables of docs/benchmarks.md from the experiment's results, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Results = Mapping[str, Mapping[str, Any]]
NAMES = {
    "ddim": "DDIM",
    "ipndm": "PNDM",
    "dpm_solver_2": "DPM-Solver-2",
    "deis": "DEIS",
    "heun": "EDM",
}
OTHERS = {
    "profile quick": "one calibration for every run",
    "ddim: columns, sigmas": "learned for that count",
    "best built-in": "best built-in in hindsight",
}
MEASURES = {"frechet": 2, "rms": 4, "median": 4}


def counts(done: Results, whos: Iterator[str] | list[str]) -> list[int]:
    """The evaluations at which any of them was run."""
    wanted = set(whos)
    split = (key.split("/", 1) for key in done)
    return sorted({int(count) for count, who in split if who in wanted})


def cell(found: Mapping[str, Any] | None, nominal: int) -> str:
    """``Frechet, RMS / median``; the evaluations where they are not the column's."""
    if found is None:
        return ""
    frechet, rms, median = (f"{found[name]:.{digits}f}" for name, digits in MEASURES.items())
    made = found.get("evaluations", nominal)
    return f"{frechet}, {rms} / {median}" + (f" ({made})" if made != nominal else "")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paper(done: Results) -> str:
    """Every solver without and with lambda, a column for every number of evaluations."""
    ways = ("plain", "paper's D-")
    whos = [f"{solver}: {way}" for solver in NAMES for way in ways]
    columns, rows = counts(done, whos), []
    for solver, name in NAMES.items():
        for way in ways:
            label = name if way == "plain" else f"D-{name}"
            cells = [cell(done.get(f"{n}/{solver}: {way}"), n) for n in columns]
            if any(cells):
                rows.append([label, *cells])
    return table(["Frechet, RMS / median", *map(str, columns)], rows)


def ours(done: Results) -> str:
    """What this package does by itself, beside the best of the others."""
    columns, rows = counts(done, list(OTHERS)), []
    for who, label in OTHERS.items():
        cells = [cell(done.get(f"{n}/{who}"), n) for n in columns]
        if any(cells):
            rows.append([label, *cells])
    named = [done.get(f"{n}/best built-in", {}).get("sampler", "") for n in columns]
    rows.append(["which is", *named])
    return table(["Frechet, RMS / median", *map(str, columns)], rows)


def verdicts(done: Results) -> Iterator[str]:
    """For each solver and count, whether lambda brings it nearer by each measure."""
    for solver, name in NAMES.items():
        for count in counts(done, [f"{solver}: plain"]):
            plain = done.get(f"{count}/{solver}: plain")
            mine = done.get(f"{count}/{solver}: paper's D-")
            if plain and mine:
                ratios = (f"{m} {mine[m] / plain[m]:.2f}" for m in MEASURES)
                yield f"D-{name} over {name} at {count}: {', '.join(ratios)}"


def write(done: Results) -> None:
    """Print what there is."""
    for key, label in (("0/data", "as many training images"), ("40/nearly converged", "iPNDM, 40")):
        if found := done.get(key):
            spread = f"{found['frechet']:.2f} +- {found['frechet_spread']:.2f}"
            print(f"{label}: Frechet distance {spread}, {found['images']} images")
    print(paper(done))
    print("\n".join(verdicts(done)))
    print(ours(done))
