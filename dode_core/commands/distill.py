"""``distill``: tables for checkpoints outside of any host, on one device or many."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import CalibrationError, DodeError
from ..step_counts import step_counts


def add(commands: Any) -> None:
    """The command and its options."""
    one = commands.add_parser(
        "distill",
        help="distill tables for diffusers checkpoints or the demo models",
        description="Distill tables and save them beside each checkpoint. On several GPUs: "
        "torchrun --nproc-per-node=N -m dode_core distill ... A run that was stopped goes on where "
        "it was: tables that are there already are not made again.",
    )
    source = one.add_argument_group("checkpoints")
    source.add_argument("--diffusers", nargs="+", default=[], metavar="PATH", help="their folders")
    source.add_argument(
        "--demo", nargs="+", default=[], metavar="NAME", help="emoji_edm, emoji_flow"
    )
    source.add_argument(
        "--list", metavar="FILE", help="a file of folders (or demo:NAME), one a line"
    )
    source.add_argument("--prompts", metavar="FILE", help="prompts like yours, one a line")
    source.add_argument("--negative", default="", metavar="TEXT", help="the negative prompt")
    source.add_argument("--size", metavar="WxH", help="in pixels (default: the model's own)")
    table = one.add_argument_group("tables")
    table.add_argument(
        "--any-steps",
        action="store_true",
        help="one profile for any number of steps, start and schedule; of the options below only "
        "--cfg, --budget (default: 64), --out and --again count",
    )
    table.add_argument("--solver", default="ddim", help="names with commas, or all (default: ddim)")
    table.add_argument("--steps", default="8", help="8, or 4,6,8, or 4-10 (default: 8)")
    table.add_argument(
        "--schedule",
        default="auto",
        help="karras, exponential or uniform (default: karras, uniform for flow)",
    )
    table.add_argument("--cfg", type=float, default=1.0, help="guidance (default: 1)")
    table.add_argument("--columns", type=int, default=1, help="past differences, 1 to 3")
    table.add_argument("--gain", action="store_true", help="fit a gain as well")
    table.add_argument("--learn-sigmas", action="store_true", help="move the sigmas too")
    table.add_argument("--budget", type=float, help="evaluations a sample, all tables together")
    table.add_argument("--out", metavar="FILE", help="where to save (default: beside each)")
    table.add_argument("--again", action="store_true", help="make tables anew that are there")
    work = one.add_argument_group("work")
    work.add_argument("--samples", type=int, default=16, help="noises to learn from (default: 16)")
    work.add_argument("--seed", type=int, default=0)
    work.add_argument("--holdout", type=float, default=0.25, help="share not learned from")
    work.add_argument("--batch-size", type=int, default=8, help="samples at a time")
    work.add_argument("--device", default="", help="cuda, mps or cpu (default: the best)")
    work.add_argument("--dtype", choices=["auto", "float32", "float16", "bfloat16"], default="auto")
    work.add_argument("--backend", choices=["gloo", "nccl"], default="gloo", help="with torchrun")
    one.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Every checkpoint in turn; one that fails does not keep the others from being done."""
    from ..fit import distributed
    from ..offline.batch import free_checkpoint

    sources, plan, wanted = _read(args)
    failed = []
    with distributed.ranks(args.backend):
        for i, source in enumerate(sources):
            try:
                one = _profile if args.any_steps else _one
                one(f"[{i + 1}/{len(sources)}] ", source, plan, wanted, args.out)
            except DodeError as error:
                if len(sources) == 1 or distributed.size() > 1:
                    raise
                failed.append(source)
                print(f"error: {source}: {error}", file=sys.stderr)
            free_checkpoint()
    if failed:
        raise CalibrationError(
            f"{len(failed)} of {len(sources)} checkpoints failed, see above: {', '.join(failed)}."
        )


def _one(label: str, source: str, plan: Any, wanted: Any, out: str | None) -> None:
    """Load, distill, save and report one checkpoint."""
    from ..offline.batch import distill_checkpoint
    from ..offline.sources import load

    began = time.monotonic()
    loaded = load(source, wanted)
    file = Path(out) if out else loaded.file
    with Bar(label + loaded.name) as bar:
        made, there = distill_checkpoint(loaded, plan, file, bar.progress)
    seconds = time.monotonic() - began
    _say(f"{file}: {len(made)} tables made, {there} were there ({seconds:.0f} s)")
    for table in made:
        _say(f"  {table.describe()}")


def _profile(label: str, source: str, plan: Any, wanted: Any, out: str | None) -> None:
    """Load, calibrate, save and report one checkpoint, for any number of steps."""
    from ..offline.batch import profile_path
    from ..offline.profiles import profile_checkpoint
    from ..offline.sources import load

    began = time.monotonic()
    loaded = load(source, wanted)
    file = Path(out) if out else profile_path(loaded, plan.cfg)
    with Bar(label + loaded.name) as bar:
        profile, made = profile_checkpoint(loaded, plan, file, bar.progress)
    what = f"made in {time.monotonic() - began:.0f} s" if made else "was there"
    _say(f"{file}: {what}")
    _say(f"  {profile.describe()}")


def _read(args: argparse.Namespace) -> tuple[list[str], Any, Any]:
    """(sources, plan, how to load) from the options. Raises :class:`DodeError`."""
    from ..fit import distributed
    from ..offline.batch import Plan
    from ..offline.loading import Wanted, read_lines
    from ..solve.solvers import SOLVERS, get_solver

    sources = [f"demo:{name}" for name in args.demo] + list(args.diffusers)
    sources += read_lines(args.list, "checkpoints") if args.list else []
    if not sources:
        raise CalibrationError("Name a checkpoint: --diffusers PATH, --demo NAME or --list FILE.")
    solvers = list(SOLVERS) if args.solver == "all" else args.solver.split(",")
    for name in solvers:
        get_solver(name)
    plan = Plan(
        solvers=tuple(dict.fromkeys(solvers)),
        steps=step_counts(args.steps),
        schedule=args.schedule,
        cfg=args.cfg,
        samples=args.samples,
        seed=args.seed,
        holdout=args.holdout,
        batch_size=args.batch_size,
        columns=args.columns,
        gain=args.gain,
        learn_sigmas=args.learn_sigmas,
        budget=args.budget,
        again=args.again,
    )
    prompts = read_lines(args.prompts, "prompts") if args.prompts else [""]
    device = args.device or distributed.device()
    return sources, plan, Wanted(prompts, args.negative, _size(args.size), device, args.dtype)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and len(text) < 12):
        raise CalibrationError(f"--size {text[:20]!r} is no size; give for instance 1024x1024.")
    return int(width), int(height)


def _say(text: str) -> None:
    from ..fit import distributed

    if distributed.rank() == 0:
        print(text, flush=True)


class Bar:
    """One progress bar for one checkpoint, shown by process 0."""

    def __init__(self, label: str) -> None:
        self.label = label

    def __enter__(self) -> Bar:
        from tqdm import tqdm

        from ..fit import distributed

        self.bar = tqdm(desc=self.label, unit="call", total=1, disable=distributed.rank() > 0)
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def progress(self, done: int, total: int, denoised: object) -> None:
        """What distill calls after every evaluation."""
        self.bar.total = total
        self.bar.update(done - self.bar.n)
