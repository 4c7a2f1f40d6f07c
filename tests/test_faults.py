"""Saving under every fault: killed anywhere, no room, no permission, unhelpful file systems."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tables import files_in, made_up, same

import dode_core as dode
from dode_core.tables import files, locking

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")
OLD, NEW = made_up(cfg=1.0), made_up("heun", cfg=2.0)


def in_child(action: Callable[[], None]) -> int:
    """What waitpid says of a fork that runs ``action`` and ends; 1 where it raises."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def kill_at(line: int) -> None:
    """SIGKILL this process at the n-th line that runs in the modules that write."""
    here = {files.__file__, locking.__file__}
    left = line

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in here:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_killed_at_every_line_of_a_save(exists: bool, tmp_path: Path) -> None:
    """The old file or the new one, never anything else, and the next save cleans up."""
    path = tmp_path / "model.dode.json"
    if exists:
        dode.save_tables(path, [OLD])
    before = path.read_bytes() if exists else None
    seen, line = set(), 0
    while True:
        line += 1

        def save(line: int = line) -> None:
            kill_at(line)
            dode.save_tables(path, [NEW])
            sys.settrace(None)

        status = in_child(save)
        if not path.exists():
            state = "none"
        else:
            state = "old" if path.read_bytes() == before else "new"
            found = dode.load_tables(path)
            assert same(found[-1], OLD if state == "old" else NEW)
            assert state == "old" or len(found) == 1 + exists
        seen.add(state)
        if status == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if path.exists():
            path.unlink()
        if before is not None:
            path.write_bytes(before)
    assert seen == {"old" if exists else "none", "new"}  # it was killed before and after the rename
    assert line > 60
    assert files_in(tmp_path) == ["model.dode.json"]


@posix
def test_killed_while_the_bytes_are_written(tmp_path: Path) -> None:
    path = tmp_path / "model.dode.json"
    dode.save_tables(path, [OLD])
    before = path.read_bytes()

    def save() -> None:
        def half(handle: int, mode: str) -> Any:
            os.write(handle, before[: len(before) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

        files.os.fdopen = half  # type: ignore[assignment]
        dode.save_tables(path, [NEW])

    assert os.WIFSIGNALED(in_child(save))
    assert path.read_bytes() == before and len(files_in(tmp_path)) == 3  # what was left, a lock
    dode.save_tables(path, [NEW])
    assert files_in(tmp_path) == ["model.dode.json"] and len(dode.load_tables(path)) == 2


@posix
def test_what_others_left_is_not_touched(tmp_path: Path) -> None:
    """Only this file's own temporary files are removed."""
    for name in (
        ".dode-other.tmp",
        "x.tmp",
        ".hidden",
        f"{files._temporary_prefix(Path('b'))}1.tmp",
    ):
        (tmp_path / name).write_text("")
    (tmp_path / f"{files._temporary_prefix(tmp_path / 'a.dode.json')}xyz.tmp").write_text("")
    dode.save_tables(tmp_path / "a.dode.json", [OLD])
    assert len(files_in(tmp_path)) == 5 and "a.dode.json" in files_in(tmp_path)


@posix
@pytest.mark.parametrize("room", [0, 1, 100, 500])
def test_a_full_disk(room: int, tmp_path: Path) -> None:
    """A real limit of the system on the file's size: writing stops in the middle."""
    import resource

    path = tmp_path / "model.dode.json"
    dode.save_tables(path, [OLD])
    before = path.read_bytes()
    assert room < len(before)

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        with pytest.raises(dode.TableError, match=r"cannot be written .*choose another folder"):
            dode.save_tables(path, [NEW])

    assert in_child(save) == 0
    assert path.read_bytes() == before and files_in(tmp_path) == ["model.dode.json"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@posix
def test_without_permission(open_folder: Path) -> None:
    path = open_folder / "model.dode.json"
    dode.save_tables(path, [OLD])
    before = path.read_bytes()
    os.chmod(open_folder, 0o555)

    def save() -> None:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)  # root may do everything
        with pytest.raises(dode.TableError, match="Permission denied.*another folder") as caught:
            dode.save_tables(path, [NEW])
        assert isinstance(caught.value.__cause__, OSError)  # hosts then use their fallback folder
        assert len(dode.load_tables(path)) == 1

    assert in_child(save) == 0
    os.chmod(open_folder, 0o755)
    assert path.read_bytes() == before and files_in(open_folder) == ["model.dode.json"]


# Unhelpful file systems


def refusing(number: int, times: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """``real``, which fails so many times first."""
    left = times

    def call(*args: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    return call


ALWAYS = 10**9
SHARES = {
    "no fsync": ("fsync", errno.EINVAL, ALWAYS),
    "no chmod": ("chmod", errno.EPERM, ALWAYS),
    "in use for a moment": ("replace", errno.EBUSY, 3),
}


@pytest.mark.parametrize("case", SHARES)
def test_a_network_share(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What some shares cannot do is not needed for a safe file."""
    name, number, times = SHARES[case]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, refusing(number, times, getattr(os, name)))
        dode.save_tables(tmp_path / "a.dode.json", [OLD])
    assert len(dode.load_tables(tmp_path / "a.dode.json")) == 1
    assert files_in(tmp_path) == ["a.dode.json"]


def test_a_file_that_stays_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refusing(errno.EBUSY, ALWAYS, os.replace))
        with pytest.raises(dode.TableError, match="cannot be written"):
            dode.save_tables(tmp_path / "a.dode.json", [OLD])
    assert files_in(tmp_path) == []


@posix
def test_a_share_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of this machine is used instead, one for every spelling of the name."""
    import fcntl

    real, tried = fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}") if os.path.exists("/proc/self/fd") else ""
        tried.append(name)
        if str(tmp_path) in name:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        real(handle, how)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("no way to ask which file a handle is")
    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locking, "SECONDS", 0.05)
    dode.save_tables(tmp_path / "a.dode.json", [OLD])
    assert files_in(tmp_path) == ["a.dode.json"] and len(tried) == 2
    with (
        locking.locked(tmp_path / "A.dode.json"),
        pytest.raises(dode.TableError, match="another program"),
    ):
        dode.save_tables(tmp_path / "a.dode.json", [NEW])


def test_a_folder_that_ignores_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both spellings name one file there: the second save finds the first one's table and lock.

    The folder's behaviour is stood in for: every path that the writer touches is lower-cased.
    """
    for name in ("open", "stat", "replace", "unlink", "chmod"):
        real = getattr(os, name)
        small = lambda path: str(path).lower() if isinstance(path, str | Path) else path  # noqa: E731

        def lower(*args: Any, real: Any = real, small: Any = small, **options: Any) -> Any:
            return real(*map(small, args), **options)

        monkeypatch.setattr(os, name, lower)
    folder = Path(tempfile.mkdtemp(dir=tmp_path, prefix="x").lower())
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(locking, "SECONDS", 0.05)
    dode.save_tables(folder / "Model.dode.json", [OLD])
    dode.save_tables(folder / "model.dode.json", [NEW])
    assert files_in(folder) == ["model.dode.json"]
    assert len(dode.load_tables(folder / "MODEL.dode.json")) == 2
    with (
        locking.locked(folder / "MODEL.dode.json"),
        pytest.raises(dode.TableError, match="another program"),
    ):
        dode.save_tables(folder / "model.dode.json", [NEW])
