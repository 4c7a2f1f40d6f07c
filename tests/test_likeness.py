"""Fingerprints side by side: what is the same, what is named, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import made_up

from dode_core.match.best import best
from dode_core.match.resolve import resolve
from dode_core.tables.identity import Identity, fingerprint, labelled, marks
from dode_core.tables.library import Stored
from dode_core.tables.likeness import compare

BASE = {
    "weights": "1" * 16,
    "values": "2" * 16,
    "file": "3" * 16,
    "options": "none",
    "guider": "CFG",
    "prediction": "eps",
    "range": "0.0292-14.61",
    "sampling": "4" * 16,
}


def changed(**marks: str) -> str:
    return fingerprint(BASE | marks)


PLAIN = changed()
RESCALED = changed(options="RescaleCFG~" + "a" * 16)
CASES = [
    # run, table, kind, what is said
    (PLAIN, PLAIN, "same", ""),
    (RESCALED, PLAIN, "close", "made without RescaleCFG"),
    (PLAIN, RESCALED, "close", "made with RescaleCFG"),
    (
        RESCALED,
        changed(options="RescaleCFG~" + "b" * 16),
        "close",
        "made with other settings of RescaleCFG",
    ),
    (
        changed(options="NAG+PAG~" + "b" * 16),
        RESCALED,
        "close",
        "made without NAG, PAG and with RescaleCFG",
    ),
    (
        changed(unguided="NGMS=4+all_steps"),
        PLAIN,
        "close",
        "made with guidance at every step, this run has NGMS 4, all steps",
    ),
    (
        PLAIN,
        changed(unguided="Skip_Early_CFG=0.2"),
        "close",
        "made with Skip Early CFG 0.2, this run has guidance at every step",
    ),
    (
        changed(unguided="NGMS=4"),
        changed(unguided="NGMS=2"),
        "close",
        "made with NGMS 2, this run has NGMS 4",
    ),
    (changed(patches="lora~1"), changed(patches="lora~2"), "close", "made with other LoRAs"),
    (changed(patches="lora~1"), PLAIN, "close", "made without LoRAs"),
    (PLAIN, changed(patches="lora~1"), "close", "made with LoRAs"),
    (changed(patches="merge~1"), PLAIN, "close", "made without the merge"),
    (PLAIN, changed(patches="merge~1"), "close", "made for a merge of this model"),
    (changed(patches="merge~1"), changed(patches="merge~2"), "close", "made for another merge"),
    (changed(patches="lora~1"), changed(patches="1"), "close", "perhaps made with other LoRAs"),
    (
        changed(guider="PerpNeg~1"),
        PLAIN,
        "close",
        "made for the guider CFG, this run's is PerpNeg",
    ),
    (
        changed(guider="DualCFG~1"),
        changed(guider="DualCFG~2"),
        "close",
        "made with other settings of the guider DualCFG",
    ),
    (
        changed(sampling="shift=8~1"),
        changed(sampling="shift=3~2"),
        "close",
        "made with shift 3, this run has shift 8",
    ),
    (
        changed(distilled_cfg="3.5"),
        changed(distilled_cfg="1"),
        "close",
        "made with distilled cfg 1, this run has 3.5",
    ),
    (changed(prediction="v"), PLAIN, "refused", "made for eps prediction, this model's is v"),
    (
        changed(range="0.0292-4518"),
        PLAIN,
        "refused",
        "made for sigmas 0.0292-14.61, this model's are 0.0292-4518",
    ),
    (changed(range="0.01-14.6"), PLAIN, "same", ""),
    # what an older version wrote
    (PLAIN, "weights:" + "1" * 16, "close", ""),
    (RESCALED, "weights:" + "1" * 16, "close", "made by a version that did not record RescaleCFG"),
    # the surest mark that both have decides
    (changed(values=""), changed(values="", file="9"), "same", ""),
    (changed(values="", weights=""), changed(file="9"), "another", None),
    (PLAIN, changed(values="9", file="9"), "another", None),
    (
        PLAIN,
        changed(values="9", weights="9"),
        "close",
        "made with other values of the same file's weights (another precision, or a change)",
    ),
    (PLAIN, changed(weights=""), "same", ""),
    ("", "", "another", None),
]


@pytest.mark.parametrize(("run", "table", "kind", "said"), CASES)
def test_what_is_said_of_a_table(run: str, table: str, kind: str, said: str | None) -> None:
    found = compare(run, table)
    assert found.kind == kind
    if said is None:
        said = "made for another checkpoint: distill it again"
    assert found.note == said


VALUES = st.sampled_from(["", "1", "2", "a~1", "b+a~2", "none"])
PRINTS = st.fixed_dictionaries({name: VALUES for name in (*BASE, "patches", "odd")}).map(
    fingerprint
)


@given(PRINTS, PRINTS)
def test_same_is_symmetric_and_means_every_mark(a: str, b: str) -> None:
    """Marks that both have agree where it is "same", and who is the table's does not matter."""
    one, other = compare(a, b), compare(b, a)
    assert one.kind == other.kind and one.distance == other.distance
    if one.kind == "same":
        own, theirs = marks(a), marks(b)
        rest = set(own) ^ set(theirs)
        assert rest <= {"weights", "values", "file"}
        assert all(
            own[name] == theirs[name] for name in set(own) & set(theirs) - {"file", "weights"}
        )
    assert bool(one.note) == bool(one.distance)


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.text(max_size=200), max_size=8))
def test_a_fingerprint_fits_a_table_file(parts: dict[str, str]) -> None:
    text = fingerprint(parts)
    assert len(text) <= 300 and text.isprintable()
    assert set(marks(text)) == {name for name, value in parts.items() if value}


def test_words_are_cut_before_hashes() -> None:
    value = labelled(["Some Node"] + [f"Node{i}" * 9 for i in range(8)], "f" * 16)
    assert value == f"Some_Node+{'Node0' * 6}No+{'Node1' * 6}No+6_more~{'f' * 16}"
    long = fingerprint({"options": value, "other": "x" * 16, "guider": "G" * 250 + "~" + "e" * 16})
    assert "f" * 16 in long and "e" * 16 in long


def test_the_closest_table_is_taken_and_a_refused_one_is_said() -> None:
    rows = [PLAIN, RESCALED, changed(prediction="v")]
    tables = [made_up(model_fingerprint=row, draw=i) for i, row in enumerate(rows)]
    stored = [Stored(table, Path(f"{i}.dode.json")) for i, table in enumerate(tables)]
    grid = tables[0].sigmas.tolist()

    def chosen(fingerprint: str, files: list[Stored]) -> tuple[object, str]:
        who = Identity(None, "x", fingerprint)
        found = best(files, who, lambda tables: resolve(tables, grid))
        return found.resolution.table, found.note

    assert chosen(RESCALED, stored) == (tables[1], " (from 1.dode.json)")
    found, note = chosen(RESCALED, [stored[0], stored[2]])
    assert found is tables[0] and note == " (from 0.dode.json, made without RescaleCFG)"
    found, note = chosen(PLAIN, [stored[2]])
    assert found is None
    assert note == " (2.dode.json is left out: made for v prediction, this model's is eps)"
