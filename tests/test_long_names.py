"""Names have limits in bytes, checked before the work; a byte order mark is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import files_in, made_up

import dode_core as dode
from dode_core.tables.identity import Identity
from dode_core.tables.library import Library, sidecar
from dode_core.tables.names import cut, file_name, inside


@pytest.mark.parametrize("letter", ["a", "ä", "猫", "𝒳"])
@pytest.mark.parametrize("length", [1, 60, 100, 120, 244])
def test_every_name_that_is_taken_can_be_written(tmp_path: Path, letter: str, length: int) -> None:
    """The lock's name and the temporary file's included, whatever the script."""
    try:
        file = inside(tmp_path, letter * length)
    except dode.TableError as error:
        assert length > 100 or len(letter.encode()) * length > 245
        assert "100 letters in 245 bytes are most" in str(error)
        return
    for draw in range(2):  # the second reads the first, under the lock
        made_up(draw=draw, cfg=float(draw)).save(file)
    assert len(dode.load_tables(file)) == 2 and files_in(tmp_path) == [file.name]


@pytest.mark.parametrize("extra", [0, 1, 6, 10])
@pytest.mark.parametrize("letter", ["a", "猫"])
def test_checkpoints_with_long_names(tmp_path: Path, letter: str, extra: int) -> None:
    """Beside the checkpoint where the name fits, else in the own folder, decided at once."""
    size = len(letter.encode())
    stem = letter * ((245 + extra - 5) // size)
    checkpoint = tmp_path / "models" / f"{stem}x.pt"
    checkpoint.parent.mkdir()
    books = Library((("models", str(tmp_path)),), tmp_path / "own", "own")
    who = Identity(checkpoint, checkpoint.name, "weights:0123456789abcdef")
    file = books.target(who)
    table = made_up(model_fingerprint=who.fingerprint)
    where, note = books.save([table], who, file)
    assert where == file and not note
    beside = len(sidecar(checkpoint).name.encode()) <= 255
    assert (file.parent == checkpoint.parent) == beside
    (found,) = books.find(who)
    assert found.file == file
    assert not [name for name in files_in(file.parent) if name.startswith(".")]


def test_letters_are_not_cut_in_half() -> None:
    assert cut("猫猫", 5) == "猫" and cut("abc", 5) == "abc"
    with pytest.raises(dode.TableError, match="not usable"):
        file_name("猫" * 99)


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Windows editors begin files with one; a file that is saved to again has none."""
    file = tmp_path / "x.dode.json"
    made_up().save(file)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(dode.load_tables(file)) == 1
    made_up(cfg=3.0).save(file)
    assert len(dode.load_tables(file)) == 2 and file.read_bytes().startswith(b"{")
