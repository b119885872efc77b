"""Files and folders appear whole or not at all."""

import errno

import pytest

from keras_ms.whole_files import whole_file, whole_folder


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
