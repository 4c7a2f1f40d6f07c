"""The bytes of a profile: a safetensors file, read strictly. See docs/profile-format.md."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import DodeError, TableError
from ..solve.noise import PARAMETRIZATIONS, same_sigmas
from ..solve.stages import MAX_CHANNELS
from ..tables import strict_json
from ..tables.safetensors_header import parse_header
from ..tables.table import LambdaTable, dump_tables, parse_tables
from ..version import PROGRAM
from .bands import MOST_BANDS
from .measured import Measured, of_run
from .model import Array, Points, Response

FORMAT, VERSION = "dode-profile", 1
MAX_BYTES = 16 * 1024 * 1024
MAX_KNOTS, MAX_POINTS, MAX_RANK, MAX_CURVE = 512, 600, 1024, 1024
MAX_VALUE = 1e9
MAX_MEASURED, MAX_LOOKS = 100, 8
_TENSORS = {"knots", "states", "slopes", "final", "mean", "curve.logs", "curve.j", "curve.nu"}
_TYPES = {"tables": "U8"}  # the bytes of a table file
_POINTS = {"points.logs", "points.dx", "points.answer"}


def dump_profile(profile: Any) -> bytes:
    """The bytes of a :class:`Profile`'s file."""
    from safetensors.numpy import save

    response = profile.response
    logs, j, nu = response.curve
    tensors = {
        **{"knots": response.knots, "states": response.states, "slopes": response.slopes},
        **{"final": response.final, "mean": response.mean},
        **{"curve.logs": logs, "curve.j": j, "curve.nu": nu},
    }
    if response.points is not None:
        points = response.points
        tensors |= {"points.logs": points.logs, "points.dx": points.dx}
        tensors["points.answer"] = points.answer
    clean: dict[str, Any] = {
        k: np.ascontiguousarray(v, dtype=np.float64) for k, v in tensors.items()
    }
    if profile.tables:
        clean["tables"] = np.frombuffer(dump_tables(profile.tables), dtype=np.uint8)
    raw = save(clean, {"profile": json.dumps(_about(profile))})
    read_fields(raw, "the profile")  # what cannot be read back is refused before it is written
    return raw


def read_fields(raw: bytes, name: str = "profile") -> dict[str, Any]:
    """The fields of a :class:`Profile` from the bytes of a file, every number checked.

    Raises :class:`TableError` that starts with ``name``.
    """
    try:
        if len(raw) > MAX_BYTES:
            raise TableError(f"it is larger than {MAX_BYTES} bytes.")
        header = parse_header(io.BytesIO(raw), len(raw))
        if set(header.metadata) != {"profile"}:
            raise TableError('it is no profile (its only text is not "profile").')
        known = set(header.tensors) - {"tables"}
        if known not in (_TENSORS, _TENSORS | _POINTS):
            raise TableError(f"it holds {len(known)} tensors; those of a profile were expected.")
        if any(kind != _TYPES.get(key, "F64") for key, (kind, _) in header.tensors.items()):
            raise TableError("its tensors are not all float64.")
        _check_shapes({key: shape for key, (_, shape) in header.tensors.items()})
        about = header.metadata["profile"].encode("utf-8")
        fields = strict_json.parse_json(about, "its description", _read_about)
        tensors = _loaded(raw)
        tables: list[LambdaTable] = []
        if "tables" in tensors:
            tables = parse_tables(tensors.pop("tables").tobytes(), "its tables")
        kind = fields.pop("parametrization")
        if any(table.parametrization != kind for table in tables):
            raise TableError("a table's parametrisation is not the profile's.")
        high = float(tensors["knots"][0])
        kept = tuple(table for table in tables if _stands(table, fields, high))
        return {"response": _response(tensors, kind), "tables": kept, **fields}
    except DodeError as error:
        raise TableError(f"{name}: {error}") from error


def _stands(table: LambdaTable, fields: Mapping[str, Any], sigma_max: float) -> bool:
    """Whether a table is kept: what another version made in advance this one makes anew."""
    first = float(table.sigmas[0])
    start = None if same_sigmas((first,), (sigma_max,)) else first
    return fields["program"] == PROGRAM or bool(of_run(fields["measured"], table.steps, start))


def _check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    knots, states = shapes["knots"], shapes["states"]
    curve = shapes["curve.logs"]
    sizes = [knots, curve, shapes.get("points.logs", (1,))]
    if any(len(size) != 1 for size in sizes) or len(states) != 3:
        raise TableError("a tensor of it has another rank than it should.")
    (k,), (f,), (m,) = sizes
    b, _, r = states
    limits = ((k, 4, MAX_KNOTS), (f, 2, MAX_CURVE), (m, 1, MAX_POINTS))
    limits += ((b, 1, MOST_BANDS), (r, 1, MAX_RANK))
    if not all(low <= value <= high for value, low, high in limits):
        raise TableError("its tensors are smaller or larger than a profile's can be.")
    wanted = {
        **{"states": (b, k, r), "slopes": (b, k, r), "final": (b, r), "mean": (b, r)},
        **{"curve.j": (b, f), "curve.nu": (b, f)},
        **{"points.dx": (b, m, r), "points.answer": (b, m, r)},
    }
    for key, shape in wanted.items():
        if shapes.get(key, shape) != shape:
            raise TableError(f'its tensor "{key}" has shape {shapes[key]}, not {shape}.')


def _loaded(raw: bytes) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(raw)
    except SafetensorError as error:
        raise TableError(f"it is no valid safetensors file ({error}).") from error


def _response(tensors: Mapping[str, Array], kind: str) -> Response:
    for key, value in tensors.items():
        if not (np.abs(value) <= MAX_VALUE).all():  # false for NaN as well
            raise TableError(f'a number of its tensor "{key}" is not finite or absurdly large.')
    knots, logs, nu = tensors["knots"], tensors["curve.logs"], tensors["curve.nu"]
    if not (knots > 1e-9).all() or not (np.diff(knots) < -1e-9 * knots[1:]).all():
        raise TableError("its sigmas do not fall from step to step.")
    steps = np.diff(logs)
    if not ((steps > 0).all() or (steps < 0).all()) or not (nu >= 0).all():
        raise TableError("its curves are not in order.")
    points = None
    if "points.logs" in tensors:
        points = Points(*(tensors[f"points.{key}"] for key in ("logs", "dx", "answer")))
    states, slopes, final = (tensors[key] for key in ("states", "slopes", "final"))
    try:
        with np.errstate(all="ignore"):
            curve = logs, tensors["curve.j"], nu
            response = Response(knots, states, slopes, final, tensors["mean"], curve, kind, points)
            finite = response.is_finite() and response.hoped().is_finite()
    except np.linalg.LinAlgError as error:
        raise TableError(f"its observed runs contradict each other ({error}).") from error
    if not finite:
        raise TableError("its observed runs make numbers that are not finite.")
    return response


def _about(profile: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "parametrization": profile.parametrization,
        "mean": None if profile.mean is None else list(profile.mean),
        "looks": list(profile.looks),
        "weight": profile.weight,
        "evaluations": profile.evaluations,
        "samples": {
            "fit": profile.samples_fit,
            "holdout": profile.samples_holdout,
            "dropped": profile.dropped,
        },
        "measured": [vars(m) for m in profile.measured],
        "cfg": profile.cfg,
        "latent_shape": list(profile.latent_shape),
        "seed": profile.seed,
        "model": {"name": profile.model_name, "fingerprint": profile.model_fingerprint},
        "program": profile.program,
    }


def _read_about(about: Any) -> dict[str, Any]:
    """The fields of :class:`Profile` that the description holds."""
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise TableError(f'its "format" is not "{FORMAT}".')
    if type(about.get("version")) is not int or about["version"] != VERSION:
        raise TableError(f"this program reads version {VERSION}; update the program.")
    names = {"format", "version", "parametrization", "mean", "looks", "weight", "evaluations"}
    names |= {"samples", "measured", "cfg", "latent_shape", "seed", "model", "program"}
    strict_json.keys(about, names, "the description")
    strict_json.keys(about["samples"], {"fit", "holdout", "dropped"}, "samples")
    strict_json.keys(about["model"], {"name", "fingerprint"}, "model")
    if (kind := strict_json.text(about["parametrization"])) not in PARAMETRIZATIONS:
        raise TableError(f"parametrisation {kind!r} is unknown; use one of {PARAMETRIZATIONS}.")
    numbers, maybe = strict_json.number, strict_json.optional
    mean = maybe(strict_json.listed(numbers, MAX_CHANNELS))(about["mean"])
    samples = {key: strict_json.count(value) for key, value in about["samples"].items()}
    return {
        "parametrization": kind,
        "mean": None if mean is None else tuple(mean),
        "looks": tuple(strict_json.listed(_positive, MAX_LOOKS)(about["looks"])),
        "weight": _positive(about["weight"]),
        "evaluations": _positive(about["evaluations"]),
        "samples_fit": samples["fit"],
        "samples_holdout": samples["holdout"],
        "dropped": samples["dropped"],
        "measured": tuple(strict_json.listed(_measured, MAX_MEASURED)(about["measured"])),
        "cfg": maybe(numbers)(about["cfg"]),
        "latent_shape": tuple(strict_json.listed(strict_json.count, 8)(about["latent_shape"])),
        "seed": maybe(strict_json.seed)(about["seed"]),
        "model_name": strict_json.text(about["model"]["name"]),
        "model_fingerprint": strict_json.text(about["model"]["fingerprint"]),
        "program": strict_json.text(about["program"]),
    }


def _measured(value: Any) -> Measured:
    names = {"steps", "start", "predicted", "measured", "built_in", "built_in_predicted", "name"}
    if isinstance(value, dict):  # the first profiles did not have it
        value = {"built_in_predicted": None, **value}
    strict_json.keys(value, names, "it")
    maybe = strict_json.optional(_positive)
    return Measured(
        strict_json.count(value["steps"]),
        maybe(value["start"]),
        _positive(value["predicted"]),
        _positive(value["measured"]),
        maybe(value["built_in"]),
        maybe(value["built_in_predicted"]),
        strict_json.text(value["name"]),
    )


def _positive(value: Any) -> float:
    if (found := strict_json.number(value)) < 0:
        raise TableError(f"a number is {found:g}, below 0.")
    return found
