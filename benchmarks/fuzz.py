"""Hostile input, a million cases and more: every one is a valid table or our own error.

``python dev.py bench fuzz [--cases N] [--atheris N]``: cases by number (tests/fuzzing.py says how
they are made, and runs one again), then coverage-guided ones by atheris where it is installed. An
interrupted run keeps its report; a run of more cases goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
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
MEMORY_MIB = 64  # growth of the whole process over its first cases


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python dev.py bench fuzz")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--atheris", type=int, default=GUIDED)
    options = parser.parse_args(arguments)
    report = _previous()
    by_number(options.cases, report)
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
    names = ["strict", "document", "resolve", "names", "checkpoint", "presets", "noise", "stages"]
    names += ["solvers", "table"]
    paths = [ROOT / "dode_core" / f"{name}.py" for name in names]
    text = b"".join(path.read_bytes() for path in [*paths, ROOT / "tests" / "fuzzing.py"])
    return hashlib.sha256(text).hexdigest()[:16]


def by_number(cases: int, report: dict[str, Any]) -> None:
    """Cases 0 to N of every target in its share; findings are kept with their numbers."""
    sys.path.insert(0, str(ROOT / "tests"))
    import fuzzing

    base = 0
    for first in tqdm(range(report["cases"], cases, EVERY), desc="fuzz", unit="block"):
        began = time.monotonic()
        for target, share in fuzzing.SHARES.items():
            outcomes: Counter[str] = Counter(report["outcomes"].get(target, {}))
            for number in range(round(first * share), round(min(first + EVERY, cases) * share)):
                try:
                    outcomes[fuzzing.run_case(target, number)] += 1
                except Exception as error:
                    outcomes["finding"] += 1
                    finding = {"target": target, "case": number, "error": repr(error)[:300]}
                    report["findings"] = [*report["findings"], finding][:100]
            report["outcomes"][target] = dict(outcomes)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        base = base or peak  # after one block: everything is imported, every solver has run
        report["cases"] = min(first + EVERY, cases)
        report["seconds"] += time.monotonic() - began
        report["memory_growth_mib"] = max(report.get("memory_growth_mib", 0), peak - base)
        with contextlib.redirect_stdout(io.StringIO()):
            write_result("fuzz", report)
    print(json.dumps({key: report[key] for key in ("cases", "outcomes", "memory_growth_mib")}))
    for finding in report["findings"]:
        print("FINDING", finding)


GUIDED_CODE = """
import sys
import atheris
sys.path[:0] = sys.argv.pop(1).split("|")
with atheris.instrument_imports(include=["dode_core", "json"]):
    import dode_core.document, dode_core.resolve, dode_core.strict, dode_core.table
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
