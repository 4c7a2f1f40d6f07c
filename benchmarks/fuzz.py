"""Hostile input, a million cases and more: every one is a valid table or our own error.

``python dev.py bench fuzz [--cases N] [--jobs N] [--atheris N]``: cases by number (tests/fuzzing.py
says how they are made, and runs one again), then coverage-guided ones by atheris where it is
installed. An interrupted run keeps its report; a run of more cases goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import multiprocessing
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .common import RESULTS, ROOT, write_result

CASES, GUIDED = 1_000_000, 200_000
EVERY = 20_000  # cases between two reports


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python dev.py bench fuzz")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--atheris", type=int, default=GUIDED)
    options = parser.parse_args(arguments)
    report = _previous()
    by_number(options.cases, options.jobs, report)
    if options.atheris:
        report["guided"] = guided(options.atheris)
    write_result("fuzz", report)


def _previous() -> dict[str, Any]:
    """The report so far, when it is of the same generators and readers."""
    version = _version()
    try:
        report = json.loads((RESULTS / "fuzz.json").read_text(encoding="utf-8"))["result"]
    except (OSError, ValueError, KeyError):
        report = {}
    if report.get("version") == version:
        return report
    return {"version": version, "cases": 0, "seconds": 0.0, "outcomes": {}, "findings": []}


def _version() -> str:
    """Hash of what is tested and of what makes the cases."""
    rooms = ("solve", "tables", "match", "offline")
    paths = sorted(path for room in rooms for path in (ROOT / "dode_core" / room).glob("*.py"))
    text = b"".join(path.read_bytes() for path in [*paths, ROOT / "tests" / "fuzzing.py"])
    return hashlib.sha256(text).hexdigest()[:16]


def by_number(cases: int, jobs: int, report: dict[str, Any]) -> None:
    """Cases 0 to N of every target in its share; findings are kept with their numbers."""
    blocks = [(n, min(n + EVERY, cases)) for n in range(report["cases"], cases, EVERY)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        found = pool.imap(run_block, blocks)
        for (_, last), done in zip(blocks, tqdm(found, total=len(blocks)), strict=True):
            for target, outcomes in done["outcomes"].items():
                known = Counter(report["outcomes"].get(target, {}))
                report["outcomes"][target] = dict(known + outcomes)
            report["findings"] = [*report["findings"], *done["findings"]][:100]
            report["cases"] = last
            report["seconds"] += done["seconds"]
            growth = max(report.get("memory_growth_mib", 0), done["memory_growth_mib"])
            report["memory_growth_mib"] = growth
            with contextlib.redirect_stdout(io.StringIO()):
                write_result("fuzz", report)
    print(json.dumps({key: report[key] for key in ("cases", "outcomes", "memory_growth_mib")}))
    for finding in report["findings"]:
        print("FINDING", finding)


_base = 0  # MiB of a worker after its first block: everything is imported, every solver has run


def run_block(block: tuple[int, int]) -> dict[str, Any]:
    """One block of cases; what became of them."""
    global _base
    sys.path.insert(0, str(ROOT / "tests"))
    import fuzzing

    began = time.monotonic()
    findings: list[dict[str, Any]] = []
    counts: dict[str, Counter[str]] = {}
    for target, share in fuzzing.SHARES.items():
        counts[target] = Counter()
        for number in range(round(block[0] * share), round(block[1] * share)):
            try:
                counts[target][fuzzing.run_case(target, number)] += 1
            except Exception as error:
                counts[target]["finding"] += 1
                error_text = repr(error)[:300]
                findings.append({"target": target, "case": number, "error": error_text})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _base = _base or peak
    seconds = time.monotonic() - began
    found = {"outcomes": counts, "findings": findings[:100], "seconds": seconds}
    return {**found, "memory_growth_mib": peak - _base}


GUIDED_CODE = """
import sys
import atheris
sys.path[:0] = sys.argv.pop(1).split("|")
with atheris.instrument_imports(include=["dode_core", "json"]):
    import dode_core.match.resolve, dode_core.tables.strict_json, dode_core.tables.table
import fuzzing

def one(raw):
    fuzzing.read_tables(raw)

atheris.Setup(sys.argv, one)
atheris.Fuzz()
"""


def guided(runs: int) -> dict[str, Any] | str:
    """So many coverage-guided runs of the table reader from the valid files."""
    if importlib.util.find_spec("atheris") is None:
        return "atheris is not installed here"
    sys.path.insert(0, str(ROOT / "tests"))
    import fuzzing

    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        for i, text in enumerate(fuzzing.CORPUS):
            (seeds / str(i)).write_text(text)
        command = [sys.executable, "-c", GUIDED_CODE, f"{ROOT}|{ROOT / 'tests'}", str(seeds)]
        command += [f"-runs={runs}", "-print_final_stats=1", "-max_len=8192", "-rss_limit_mb=2048"]
        command += ["-timeout=20", "-seed=1", "-use_value_profile=1"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        crashes = [path.name for path in Path(folder).glob("crash-*")]
    text = done.stdout + done.stderr
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)
    executed = re.findall(r"number_of_executed_units: (\d+)", text)
    result = {
        "runs": int(executed[-1]) if executed else 0,
        "exit": done.returncode,
        "crashes": crashes,
        "covered_edges_first_last": [int(covered[0][0]), int(covered[-1][0])] if covered else [],
        "features_first_last": [int(covered[0][1]), int(covered[-1][1])] if covered else [],
    }
    print(json.dumps(result))
    if done.returncode or crashes:
        print(text[-3000:])
    return result
