"""Two fingerprints side by side: the same model, a close one, another, or one to refuse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["same", "close", "another", "refused"]
WEIGHTS = ("values", "weights", "file")  # what knows weights again, the surest first
SAME_RANGE = 0.01  # relative, of the highest sigma; the lowest moves with a flow model's shift
PARTLY = "partly_read"  # a word of a mark: there was more than could be looked at
EVERY_STEP = "guidance at every step"
PLAIN = {"options": "none", "guider": "CFG"}  # values that say: nothing special


@dataclass(frozen=True)
class Difference:
    """One mark that two fingerprints do not share; "" is "nothing there", or, unknown, not said."""

    mark: str
    ours: str
    theirs: str

    def __str__(self) -> str:
        return _say(self)


@dataclass(frozen=True)
class Likeness:
    """How a table's model compares with the one that is to run.

    ``same``: every mark agrees, so that a table made for one is the other's. ``close``: the same
    weights, with ``differences`` to be named; or ``unknown`` marks that one of the two lacks.
    ``another``: other weights. ``refused``: another prediction type or sigma range: the numbers
    would mean something else.
    """

    kind: Kind
    same_weights: bool
    differences: tuple[Difference, ...] = ()
    unknown: tuple[Difference, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is to be said about using such a table, most important first."""
        if self.kind == "refused":
            return self._named()[:1]
        if self.kind == "another":
            return "made for another checkpoint: distill it again", *self._named()
        return self._named()

    @property
    def distance(self) -> int:
        """Order of trust: 0 for nothing to say, then by how much there is; refused is last."""
        base = {"same": 0, "close": 0, "another": 100, "refused": 1000}[self.kind]
        named = [_weight(each) for each in self.differences]
        return base + sum(named) + sum(not _ordinary(each) for each in self.unknown)

    def _named(self) -> tuple[str, ...]:
        said = [str(each) for each in self.differences]
        said += [_unsaid(each) for each in self.unknown if not _ordinary(each)]
        return tuple(said)

    @property
    def note(self) -> str:
        """The doubts as one clause; empty without any."""
        return ", ".join(self.doubts)


def marks(fingerprint: str) -> dict[str, str]:
    """The parts of a fingerprint by name."""
    return dict(part.split(":", 1) for part in fingerprint.split() if ":" in part)


def words(value: str) -> tuple[str, ...]:
    """The names in a mark's value."""
    label, tilde, _ = value.rpartition("~")
    return tuple(label.split("+")) if tilde else ()


def compare(ours: str, theirs: str) -> Likeness:
    """How the model of a table's fingerprint ``theirs`` compares with ``ours``."""
    own, other = marks(ours), marks(theirs)
    same_weights, changed = _weights(own, other)
    differences, unknown = changed, []
    for name in sorted((own.keys() | other.keys()) - set(WEIGHTS), key=_importance):
        a, b = own.get(name, ""), other.get(name, "")
        if a == b and PARTLY in words(a):
            unknown.append(Difference(name, a, b))
            continue
        if a == b or (name == "range" and a and b and _same_range(a, b)):
            continue
        if _comparable(name, a, b):
            differences.append(Difference(name, a, b))
        else:
            unknown.append(Difference(name, a, b))
    kind: Kind = "same" if not differences and not unknown else "close"
    if not same_weights:
        kind = "another"
    if any(each.mark in ("prediction", "range") for each in differences):
        kind = "refused"
    return Likeness(kind, same_weights, tuple(differences), tuple(unknown))


def _weights(own: Mapping[str, str], other: Mapping[str, str]) -> tuple[bool, list[Difference]]:
    """(whether the weights are the same, what is to be said about them).

    The surest mark that both have decides. The same file with other values in memory is the same
    model in another precision, or one whose weights were changed after loading.
    """
    both = [name for name in WEIGHTS if own.get(name) and other.get(name)]
    if not both:
        return False, []
    first = both[0]
    if own[first] == other[first]:
        return True, []
    if "file" in both and own["file"] == other["file"]:
        return True, [Difference("values", own[first], other[first])]
    return False, []


def _comparable(name: str, a: str, b: str) -> bool:
    """Whether two values that differ say that the models do."""
    if name == "patches":  # no mark is no patch; without words it is an older version's, by name
        return not (a and b) or bool(words(a)) == bool(words(b))
    if name == "unguided":  # no mark is guidance at every step
        return True
    return bool(a and b)


def _same_range(a: str, b: str) -> bool:
    try:
        one, two = (float(value.rsplit("-", 1)[1]) for value in (a, b))
    except (IndexError, ValueError):
        return False
    return math.isclose(one, two, rel_tol=SAME_RANGE)


def _weight(each: Difference) -> int:
    """How much a difference counts: what is there and should not be counts besides what is not."""
    if each.mark == "options":
        return max(1, len(set(words(each.ours)) ^ set(words(each.theirs))))
    if each.mark == "patches" and each.ours and each.theirs:
        return 2  # those of this run are missing, and others are there
    return 1


def _ordinary(unknown: Difference) -> bool:
    """Whether a mark that is not known on one side is nothing to speak of on the other."""
    known = unknown.ours or unknown.theirs
    return unknown.mark in ("sampling", "prediction", "range") or known == PLAIN.get(unknown.mark)


def _importance(name: str) -> tuple[int, str]:
    order = ("prediction", "range", "patches", "options", "guider", "unguided", "sampling")
    return (order.index(name) if name in order else len(order)), name


def _say(each: Difference) -> str:
    a, b = words(each.ours), words(each.theirs)
    if each.mark == "patches":
        return _say_patches(each)
    if each.mark == "options":
        return _say_options(a, b)
    ours, theirs = _plain(each.ours), _plain(each.theirs)
    if each.mark == "unguided":
        return f"made with {theirs or EVERY_STEP}, this run has {ours or EVERY_STEP}"
    if each.mark == "values":
        return "made with other values of the same file's weights (another precision, or a change)"
    if each.mark == "prediction":
        return f"made for {theirs} prediction, this model's is {ours}"
    if each.mark == "range":
        return f"made for sigmas {theirs}, this model's are {ours}"
    if each.mark == "guider":
        same = f"made with other settings of the guider {ours}"
        return f"made for the guider {theirs}, this run's is {ours}" if ours != theirs else same
    name = each.mark.replace("_", " ")
    if each.mark == "sampling":
        if ours == theirs:
            return "made with other sampling settings of the model"
        return f"made with {theirs}, this run has {ours}"
    return f"made with {name} {theirs}, this run has {ours}"


def _plain(value: str) -> str:
    """A mark's words for people."""
    label, tilde, mark = value.rpartition("~")
    return (label if tilde else mark).replace("+", ", ").replace("=", " ").replace("_", " ")


def _say_patches(each: Difference) -> str:
    ours, theirs = words(each.ours) or ("LoRA",), words(each.theirs) or ("LoRA",)
    if not each.theirs:
        return "made without the merge" if "merge" in ours else "made without LoRAs"
    if not each.ours:
        return "made for a merge of this model" if "merge" in theirs else "made with LoRAs"
    if "merge" in ours and "merge" in theirs:
        return "made for another merge"
    if "merge" in theirs:
        return "made for a merge of this model"
    if "merge" in ours:
        return "made without the merge"
    return "made with other LoRAs"


def _say_options(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    without = [name for name in ours if name not in theirs]
    extra = [name for name in theirs if name not in ours]
    said = [f"without {', '.join(without)}"] if without else []
    said += [f"with {', '.join(extra)}"] if extra else []
    return "made " + (" and ".join(said) or f"with other settings of {', '.join(ours) or 'nodes'}")


def _unsaid(each: Difference) -> str:
    """What is to be said of a mark that one of the two lacks."""
    if each.mark == "patches":
        return "perhaps made with other LoRAs"
    name = each.mark.replace("_", " ")
    if each.ours == each.theirs:
        what = ", ".join(word for word in words(each.ours) if word != PARTLY) or name
        return f"perhaps made with other settings of {what}, too many to be read"
    if each.theirs:
        return f"made with {', '.join(words(each.theirs)) or f'{name} {each.theirs}'}"
    what = ", ".join(words(each.ours)) or f"{name} {each.ours}"
    return f"made by a version that did not record {what}"
