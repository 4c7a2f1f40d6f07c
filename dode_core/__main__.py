"""Command line: ``python -m dode_core inspect | plot | distill | presets | demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .commands import distill, presets
from .errors import DodeError


def inspect(args: argparse.Namespace) -> None:
    """Print what a table file, or a profile, holds."""
    from .report import text_table
    from .response.profile import SUFFIX, Profile
    from .tables.table import load_tables

    if args.file.endswith(SUFFIX):
        profile = Profile.load(args.file)
        print(f"{args.file}: {profile.model_name or '?'}  {profile.model_fingerprint}".rstrip())
        print(profile.describe().replace("; ", "\n    "))
        return
    tables = load_tables(args.file)
    print(f"{args.file}: {len(tables)} table{'s' * (len(tables) != 1)}")
    for i, table in enumerate(tables):
        print(f"\n[{i}] {table.describe()}")
        facts = {
            "model": f"{table.model_name or '?'}  {table.model_fingerprint}".strip(),
            "parametrisation": table.parametrization,
            "latent shape": "x".join(map(str, table.latent_shape)) or "?",
            "teacher": table.teacher or "?",
            "samples": f"{table.samples_fit} fit + {table.samples_holdout} held out",
            "evaluations": f"{table.evaluations:g} per sample",
            "seed": "?" if table.seed is None else str(table.seed),
            "made by": table.program or "?",
        }
        if (ahead := table.look_ahead) is not None:
            mean = " ".join(f"{value:.3g}" for value in ahead.mean[:8])
            facts["looks ahead to"] = f"sigma {ahead.sigma:.5g}, channel means {mean or 0}"
        if table.errors:
            e = table.errors
            facts["error, fit"] = f"plain {e.plain_fit:.4g}  distilled {e.distilled_fit:.4g}"
            if e.plain_holdout is not None:
                facts["error, held out"] = (
                    f"plain {e.plain_holdout:.4g}  distilled {e.distilled_holdout:.4g}"
                )
        for name, value in facts.items():
            print(f"    {name:16} {value}")
        for name, error in table.peer_errors.items():
            facts[f"{name}, held out"] = f"{error:.4g}"
        rows = []
        for k, (stage, row) in enumerate(zip(table.stages, table.lambdas.tolist(), strict=True)):
            note = "did not help, 0" if k in table.zeroed else ""
            ab = stage.adams_bashforth
            values = [f"{value:.4f}" for value in row]
            natural = "" if ab is None else f"{ab:.4f}"
            rows.append([f"{stage.sigma:.5g}", f"{stage.sigma_next:.5g}", *values, natural, note])
        print(text_table(["sigma", "next", *table.column_names, "AB2", ""], rows))


def plot(args: argparse.Namespace) -> None:
    """Draw the tables of a file, one PNG each."""
    from .report import plot_table, save_figure
    from .tables.table import load_tables

    tables = load_tables(args.file)
    stem = Path(args.out or Path(args.file).name.removesuffix(".dode.json"))
    for i, table in enumerate(tables):
        name = stem.with_suffix("") if len(tables) == 1 else Path(f"{stem.with_suffix('')}-{i}")
        print(save_figure(plot_table(table), name.with_suffix(".png")))


def demo(args: argparse.Namespace) -> None:
    """Distill on the embedded model, compare, draw."""
    from .demo.run import DemoSettings, run_demo

    run_demo(DemoSettings(out=Path(args.out), cfg=args.cfg, samples=args.samples, seed=args.seed))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dode_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser(
        "inspect", help="print the tables of a file, or what a profile is for"
    )
    one.add_argument("file")
    one.set_defaults(run=inspect)
    one = commands.add_parser("plot", help="draw the tables of a file as PNG")
    one.add_argument("file")
    one.add_argument("--out", help="name of the PNG (default: the file's, in this folder)")
    one.set_defaults(run=plot)
    distill.add(commands)
    presets.add(commands)
    one = commands.add_parser("demo", help="distill and compare on the embedded emoji model")
    one.add_argument("--out", default="demo_output", help="folder for the results")
    one.add_argument("--cfg", type=float, default=1.0, help="guidance scale")
    one.add_argument("--samples", type=int, default=16, help="calibration samples")
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=demo)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except BrokenPipeError:  # "| head": nobody reads on
        sys.stdout = None
    except KeyboardInterrupt:
        print("stopped; what was not saved yet is left as it was", file=sys.stderr)
        return 130
    except DodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
