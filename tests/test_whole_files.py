"""Files and folders appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keras_ms.files import (
    check_can_be_written,
    check_writable,
    full_disk_error,
    whole_file,
    whole_folder,
)


def test_a_file_takes_its_name_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".txt"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_the_old_one_at_the_end(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with whole_folder(path) as temporary:
            (temporary / content).write_text(content)
    assert [file.name for file in path.iterdir()] == ["second"]
    with pytest.raises(RuntimeError):
        with whole_folder(path) as temporary:
            (temporary / "third").write_text("half")
            raise RuntimeError("stopped")
    assert [file.name for file in path.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [path]


def test_without_replacing_what_is_there_is_kept(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    with whole_folder(path, replace=False) as temporary:
        (temporary / "first").touch()
    with pytest.raises(FileExistsError, match="not empty. Remove it"):
        with whole_folder(path, replace=False):
            raise RuntimeError("not reached")
    assert [file.name for file in path.iterdir()] == ["first"]
    other = tmp_path / "other"
    with whole_folder(other, replace=False) as temporary:
        (temporary / "ours").touch()
        other.mkdir()
        (other / "theirs").touch()  # by another process
    assert [file.name for file in other.iterdir()] == ["theirs"]
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for writer in (whole_file, whole_folder):
        with pytest.raises(OSError, match="Choose a folder"):
            with writer(tmp_path / "file" / "model"):
                raise RuntimeError("not reached")


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="Received a file"):
        with whole_folder(tmp_path / "file"):
            raise RuntimeError("not reached")
    with pytest.raises(IsADirectoryError, match="Received a folder"):
        with whole_file(tmp_path):
            raise RuntimeError("not reached")


KILLED = """
import os, signal, sys
from pathlib import Path
kind, path, what = sys.argv[1:]
sys.argv[0] = "keras-ms"  # in a command keras_ms is imported without Keras
from keras_ms.files import whole_file, whole_folder
writer = {"file": whole_file, "folder": whole_folder}[kind]
with writer(Path(path)) as temporary:
    if kind == "file":
        temporary.write_text("half")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("writes", flush=True)
    sys.stdin.read()
    if kind == "file":
        temporary.write_text("whole")
"""


def writing(kind, path, what, **options):
    return subprocess.Popen([sys.executable, "-c", KILLED, kind, str(path), what], **options)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_leaves_is_removed_by_the_next(kind, tmp_path):
    assert writing(kind, tmp_path / "a.txt", "kill").wait() == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    with whole_file(tmp_path / "b.txt") as temporary:  # whatever is written there next
        temporary.write_text("whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "b.txt"]


def test_what_a_living_process_writes_stays(tmp_path):
    living = writing("file", tmp_path / "a.txt", "wait", stdin=subprocess.PIPE,
                     stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert living.stdout.readline() == "writes\n"
    check_writable(tmp_path)
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("ours")
    living.communicate("")
    assert living.returncode == 0
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_folders_of_others_stay(tmp_path):
    other = tmp_path / ".download.part"
    other.mkdir()
    (other / "half").write_text("of another program")
    check_writable(tmp_path)
    assert (other / "half").exists()


def test_a_folder_that_was_moved_aside_comes_back(tmp_path):
    """As a process leaves it that is killed between the two renames of a replacement."""
    part = tmp_path / ".model.x.part"
    for folder in ("before", "new"):
        (part / folder / "model").mkdir(parents=True)
        (part / folder / "model" / folder).touch()
    (part / ".writing").touch()
    check_writable(tmp_path)
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["before"]
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.parametrize("name", ["before", "new", ".writing"])
def test_names_of_the_temporary_folder_are_names_too(name, tmp_path):
    for content in ("first", "second"):
        with whole_folder(tmp_path / name) as temporary:
            (temporary / content).touch()
        with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / name):
            raise KeyboardInterrupt
        assert [file.name for file in (tmp_path / name).iterdir()] == [content]
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "other" / name):
        raise RuntimeError
    assert not list((tmp_path / "other").iterdir())
    with whole_file(tmp_path / "file" / name) as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "file" / name).read_text() == "whole"


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda number: calls.append("sync"))
    monkeypatch.setattr(
        os, "replace", lambda *paths: (calls.append(Path(paths[1]).name), replace(*paths))
    )
    with whole_file(tmp_path / "file") as temporary:
        temporary.touch()
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        for name in ("a", "inner/b"):
            (temporary / name).touch()
    assert calls == ["sync", "file", "sync", "sync", "folder"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("16384 requested and 0 written"),
        RuntimeError("x; No space left on device"),
    ],
)
@pytest.mark.parametrize("writer", [whole_file, whole_folder])
def test_a_full_disk_names_the_file(writer, error, tmp_path):
    with pytest.raises(OSError, match="disk is full.*embeddings.*MB are free.*Free some") as raised:
        with writer(tmp_path / "embeddings"):
            raise error
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_what_is_needed_and_what_is_free_do_not_contradict_each_other(tmp_path):
    assert "MB are free" in str(full_disk_error(tmp_path / "a", 10**18))
    little = str(full_disk_error(tmp_path / "a", 1))
    assert "needs more than 0.0 MB" in little and "are free" not in little


def test_names_as_long_as_the_file_system_takes(tmp_path):
    path = tmp_path / ("ä" * 120 + ".txt")
    with whole_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_a_folder_that_cannot_be_written_is_named_alone(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Cannot write into the folder") as raised:
        check_writable(tmp_path / "file" / "model")
    assert "check" not in str(raised.value)


def test_without_locks_files_are_written_all_the_same(tmp_path, monkeypatch):
    # as on Windows, which neither renames nor removes a file that is open
    monkeypatch.setattr("keras_ms.files.fcntl", None)
    opened = []

    def no_lock(*arguments):
        opened.append(arguments)

    monkeypatch.setattr("keras_ms.files._new_lock", no_lock)
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    with whole_folder(tmp_path / "b") as temporary:
        (temporary / "c").write_text("too")
    check_writable(tmp_path)
    assert not opened and sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b"]


def test_what_could_not_be_written_is_told_and_nothing_is_made(tmp_path):
    check_can_be_written(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Choose a folder that exists or can be created"):
        check_can_be_written(tmp_path / "file" / "b")
    with pytest.raises(OSError, match="Choose a folder"):
        check_can_be_written("/proc/nope")
