"""Writing table files: atomic, one writer at a time, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tables import files_in, made_up

import dode_core as dode
from dode_core.tables import files, locking

ROOT = Path(__file__).resolve().parent.parent


# Atomic writing


class Boom(BaseException):
    """What neither OSError nor Exception handlers see, as a keyboard interrupt."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Boom()], ids=repr)
@pytest.mark.parametrize("where", ["replace", "fsync", "write", "chmod", "mkstemp"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_changes_nothing(
    where: str, error: BaseException, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept.dode.json"
    if exists:
        made_up().save(path)
    before = path.read_bytes() if exists else None

    def fail(*args: Any, **options: Any) -> None:
        raise error

    class Full:
        """A file on a full disk."""

        def __init__(self, handle: int, mode: str) -> None:
            self.file = open(handle, mode)  # noqa: SIM115

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *exception: object) -> None:
            self.file.close()

        write = fail

    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(files.os, "fdopen", Full)
        else:
            patch.setattr(files.tempfile if where == "mkstemp" else files.os, where, fail)
        with pytest.raises(dode.TableError if isinstance(error, OSError) else Boom) as caught:
            made_up("heun").save(path)
    if isinstance(error, OSError):
        assert "No space left" in str(caught.value) and "another folder" in str(caught.value)
    assert files_in(tmp_path) == (["kept.dode.json"] if exists else [])
    assert not exists or path.read_bytes() == before
    made_up("heun").save(path)  # the lock was released
    assert len(dode.load_tables(path)) == 1 + exists


def test_the_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "models" / "dode" / "new.dode.json"
    made_up().save(str(path))
    assert files_in(path.parent) == ["new.dode.json"]
    assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(dode.TableError, match="another folder"):
        made_up().save(tmp_path / "file" / "t.dode.json")


# Several writers

SAVER = """
import sys
sys.path[:0] = sys.argv[2:]
from tables import made_up
for k in range(5):
    made_up(cfg=float(sys.argv[1]) + k / 10).save("shared.dode.json")
"""


def test_savers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    paths = [str(ROOT), str(ROOT / "tests")]
    savers = [
        subprocess.Popen([sys.executable, "-c", SAVER, str(cfg), *paths], cwd=tmp_path)
        for cfg in range(4)
    ]
    assert [saver.wait(120) for saver in savers] == [0] * 4
    found = {table.cfg for table in dode.load_tables(tmp_path / "shared.dode.json")}
    assert found == {cfg + k / 10 for cfg in range(4) for k in range(5)}
    assert files_in(tmp_path) == ["shared.dode.json"]


def test_savers_in_several_threads_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shared.dode.json"

    def save(cfg: int) -> None:
        for k in range(4):
            made_up(cfg=cfg + k / 10).save(path)

    threads = [threading.Thread(target=save, args=(cfg,)) for cfg in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(dode.load_tables(path)) == 24


def test_a_writer_that_hangs_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "busy.dode.json"
    monkeypatch.setattr(locking, "SECONDS", 0.05)
    with locking.locked(path), pytest.raises(dode.TableError, match="another program"):
        made_up().save(path)
    assert files_in(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_is_written_through(tmp_path: Path) -> None:
    """Model folders are often links: the file behind it changes, the link stays."""
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "t.dode.json", tmp_path / "t.dode.json"
    made_up().save(target)
    link.symlink_to(target)
    made_up("heun").save(link)
    assert link.is_symlink() and len(dode.load_tables(target)) == 2
