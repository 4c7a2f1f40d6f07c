"""``presets add | list | verify``: the folder of shared tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import TableError
from ..step_counts import step_counts

ANY = "1-1000"
FEW = (5, 8, 12)  # steps at which a profile is measured when nobody says
USUAL = "dpmpp_2m"  # what a profile is measured beside: its tables have no solver of their own


def add(commands: Any) -> None:
    """The command and what it can do."""
    one = commands.add_parser("presets", help="add, list and verify shared tables")
    actions = one.add_subparsers(required=True, metavar="ACTION")
    act = actions.add_parser("add", help="check a table file, copy it to the folder, list it")
    act.add_argument("file", help="a table file, or a profile of which tables are made")
    act.add_argument("--steps", help="of the tables of a profile: 8, or 4,6,8, or 4-10")
    act.add_argument("--note", default="", help="one line for the list")
    act.set_defaults(run=run_add)
    act = actions.add_parser("list", help="what is in the folder")
    act.set_defaults(run=run_list)
    act = actions.add_parser(
        "verify",
        help="check the folder's files, or measure tables again on your own checkpoint",
        description="Without a checkpoint: are the files what the index says? With one: every "
        "table is measured on new noise, and refused when it is worse than its plain solver; "
        "of a profile 5, 8 and 12 steps (or --steps), beside DPM++ 2M.",
    )
    act.add_argument(
        "files", nargs="*", help="table files or profiles (default: all presets of the folder)"
    )
    act.add_argument("--demo", metavar="NAME", help="measure on a demo model")
    act.add_argument("--diffusers", metavar="PATH", help="measure on this checkpoint")
    act.add_argument("--prompts", metavar="FILE", help="prompts, one a line")
    act.add_argument("--negative", default="", metavar="TEXT", help="the negative prompt")
    act.add_argument("--solver", default="all", help="names with commas, or all")
    act.add_argument("--steps", default=ANY, help="8, or 4,6,8, or 4-10")
    act.add_argument("--samples", type=int, default=16)
    act.add_argument("--seed", type=int, default=0, help="of the new noise")
    act.add_argument("--device", default="", help="cuda, mps or cpu (default: the best)")
    act.set_defaults(run=run_verify)
    for act in actions.choices.values():
        act.add_argument("--folder", help="the preset folder (default: lambdas/)")


def folder_of(args: argparse.Namespace) -> Path:
    """The preset folder."""
    from ..tables.library import PRESETS

    return Path(args.folder) if args.folder else PRESETS


def run_add(args: argparse.Namespace) -> None:
    """Check, copy, list; of a profile tables for ``--steps``, in a file that has its name."""
    from ..response.profile import SUFFIX
    from ..tables.presets import add_preset, export_tables

    file = Path(args.file)
    if file.suffix != SUFFIX:
        if args.steps:
            raise TableError(f"{file.name} has its tables; --steps is for profiles only.")
        print(f"added {add_preset(folder_of(args), file, args.note).describe()}")
        return
    if not args.steps:
        raise TableError(
            f"{file.name} is a profile, and this folder takes tables; say for which steps (--steps "
            "4-10), or put the profile beside the checkpoint, as it is."
        )
    tables = tables_in(args.file, args.steps)
    print(f"added {export_tables(folder_of(args), file.stem, tables, args.note).describe()}")


def run_list(args: argparse.Namespace) -> None:
    """One line a preset."""
    from ..tables.presets import read_index

    found = read_index(folder_of(args))
    for preset in found:
        print(preset.describe())
    if not found:
        print(f"{folder_of(args)} has no presets")


def run_verify(args: argparse.Namespace) -> None:
    """Check files; with a checkpoint, measure. Raises :class:`TableError` when one fails.

    A profile that could be read is in order: what a shared table must say of itself it need not.
    """
    from ..response.profile import SUFFIX
    from ..tables.presets import load_preset, problems, read_index

    folder = folder_of(args)
    if args.files:
        named = [(Path(file).name, tables_in(file, args.steps)) for file in args.files]
    else:
        named = [(preset.file, load_preset(folder, preset)) for preset in read_index(folder)]
    if args.demo or args.diffusers:
        measure_all(args, named)
        return
    bad = 0
    for name, tables in named:
        found = [] if name.endswith(SUFFIX) else problems(tables)
        bad += bool(found)
        print(f"{name}: {len(tables)} tables, {'; '.join(found[:3]) or 'in order'}")
    if bad:
        raise TableError(f"{bad} of {len(named)} files are not fit to be shared, see above.")


def tables_in(file: str, steps: str) -> list[Any]:
    """The tables of a file; of a profile those of ``steps``, or of a few where all are meant."""
    from ..response.profile import SUFFIX, Profile
    from ..tables.table import load_tables

    if not file.endswith(SUFFIX):
        return list(load_tables(file))
    profile = Profile.load(file)
    return [profile.table(n) for n in (FEW if steps == ANY else step_counts(steps))]


def measure_all(args: argparse.Namespace, named: list[tuple[str, list[Any]]]) -> None:
    """Measure every chosen table that is for the checkpoint."""
    from ..fit import distributed
    from ..offline.loading import Wanted, read_lines
    from ..offline.sources import load
    from ..offline.verify import measure
    from ..solve.solvers import SOLVERS
    from ..tables.fields import OF_PROFILE
    from ..tables.identity import marks

    prompts = read_lines(args.prompts, "prompts") if args.prompts else [""]
    wanted = Wanted(prompts, args.negative, None, args.device or distributed.device())
    loaded = load(f"demo:{args.demo}" if args.demo else args.diffusers, wanted)
    solvers = list(SOLVERS) if args.solver == "all" else args.solver.split(",")
    steps = step_counts(args.steps)
    count = worse = 0
    for name, tables in named:
        chosen = [table for table in tables if table.solver in solvers and table.steps in steps]
        if not args.files:  # of a folder, only what is for this checkpoint
            chosen = [table for table in chosen if table.model_fingerprint == loaded.fingerprint]
        for table in chosen[:1]:
            if marks(table.model_fingerprint).get("file") != marks(loaded.fingerprint)["file"]:
                print(f"note: {name} was made for {table.model_name}, not for {loaded.name}")
        for made in (True, False):  # those of a profile are DDIM's rows: plain DDIM is too easy
            part = [table for table in chosen if (table.teacher == OF_PROFILE) == made]
            beside = USUAL if made else None
            for result in measure(loaded, part, args.samples, args.seed, beside=beside):
                count += 1
                worse += not result.helps
                print(result.describe(), flush=True)
    if not count:
        raise TableError(f"No table of these is for {loaded.name} with such solvers and steps.")
    if worse:
        raise TableError(
            f"{worse} of {count} tables are worse than what they were measured beside on "
            f"{loaded.name}; do not use or publish them."
        )
    print(f"all {count} tables are at least as good as what is beside them on {loaded.name}")
