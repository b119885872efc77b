"""Which pictures some data holds, in which order, and their bytes."""

import io
import os
import random
import tarfile

import numpy as np
import pytest
from PIL import Image

from keras_ms.data.image_file import SUFFIXES

fsspec = pytest.importorskip("fsspec", reason='needs pip install -e ".[search]"')
pyarrow = pytest.importorskip("pyarrow", reason='needs pip install -e ".[search]"')

from pyarrow import parquet  # noqa: E402

from keras_ms.search.picture_list import list_pictures  # noqa: E402

FILES = (
    "b.png", "a.JPG", "zoo/owl.png", "zoo/deep/er/crow.webp", "A/9.png", "A/10.png",
    "notes.txt", ".hidden.png", "zoo/.cache/owl.png", "A/list.csv",
)  # fmt: skip


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((5, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(FILES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return tmp_path / "photos"


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def literal_listing(folder):
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                found.append(os.path.join(place, name))
    return sorted(found)


def contents(pictures):
    return [pictures.read(number) for number in range(len(pictures.paths))]


def write_tar(path, folder, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            archive.add(folder / name, arcname=name, recursive=False)
    return path


def test_a_folder_of_any_depth(folder):
    pictures = list_pictures(str(folder))
    assert pictures.paths == literal_listing(folder)
    assert len(pictures.paths) == 6
    assert contents(pictures) == [open(path, "rb").read() for path in pictures.paths]
    assert not pictures.is_remote
    assert "6 of" in pictures.summary and ".txt" in pictures.summary


def test_paths_are_written_as_the_folder_was_typed(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert list_pictures("photos").paths[-1] == os.path.join("photos", "zoo", "owl.png")


def test_a_folder_at_a_url(folder, memory):
    for name in FILES:
        memory.pipe_file(f"/bucket/photos/{name}", (folder / name).read_bytes())
    pictures = list_pictures("memory://bucket/photos")
    local = list_pictures(str(folder))
    assert pictures.is_remote
    assert contents(pictures) == contents(local)
    assert [path.rpartition("photos")[2] for path in pictures.paths] == [
        path.rpartition("photos")[2] for path in local.paths
    ]
    with fsspec.open(pictures.paths[0]) as file:
        assert file.read() == contents(pictures)[0]


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_tables_of_paths(folder, memory, place):
    absolute = str(folder / "b.png")
    names = ["zoo/owl.png", absolute, "A/9.png"]
    (folder / "list.csv").write_text("Photo;class\n" + "".join(f"{n};x\n" for n in names))
    parquet.write_table(pyarrow.table({"photo": names}), folder / "list.parquet")
    root = str(folder)
    if place == "memory":
        root = "memory://photos"
        for name in [*FILES, "list.csv", "list.parquet"]:
            memory.pipe_file(f"/photos/{name}", (folder / name).read_bytes())
    for table in ("list.csv", "list.parquet"):
        pictures = list_pictures(f"{root}/{table}", column="photo")
        assert pictures.paths == [f"{root}/zoo/owl.png", absolute, f"{root}/A/9.png"]
        assert contents(pictures) == [(folder / name).read_bytes() for name in names]


def test_what_a_table_lists_may_be_gone_or_lie_elsewhere(folder, memory):
    memory.pipe_file("/x.png", png(77))
    tar = write_tar(folder / "few.tar", folder, ["A/9.png"])
    names = ["gone.png", "memory://x.png", f"tar://A/9.png::{tar}", "memory://gone.png", "A"]
    (folder / "list.csv").write_text("path\n" + "\n".join(names))
    pictures = list_pictures(str(folder / "list.csv"))
    assert pictures.read(1) == png(77)
    assert pictures.read(2) == (folder / "A/9.png").read_bytes()
    for number in (0, 3, 4):
        with pytest.raises(ValueError, match="(?i)no such file|directory"):
            pictures.read(number)


def test_members_of_tars_in_their_order(folder, memory):
    shards = folder.parent / "shards"
    shards.mkdir()
    second = ["zoo/owl.png", "A/9.png", "notes.txt", ".hidden.png", "A"]
    write_tar(shards / "1.tar", folder, second)
    write_tar(shards / "0.tar", folder, ["b.png"])
    (shards / "README.txt").write_text("two tars")
    expected = [(folder / name).read_bytes() for name in ("b.png", "zoo/owl.png", "A/9.png")]
    for data in (str(shards), f"{shards}/*.tar"):
        pictures = list_pictures(data)
        assert pictures.paths == [
            f"tar://b.png::{shards}/0.tar",
            f"tar://zoo/owl.png::{shards}/1.tar",
            f"tar://A/9.png::{shards}/1.tar",
        ]
        assert contents(pictures) == expected
        with fsspec.open(pictures.paths[1]) as file:
            assert file.read() == expected[1]
    assert contents(list_pictures(str(shards / "1.tar"))) == expected[1:]
    for name in ("0.tar", "1.tar"):
        memory.pipe_file(f"/shards/{name}", (shards / name).read_bytes())
    for data in ("memory://shards", "memory://shards/*.tar"):
        assert contents(list_pictures(data)) == expected


def test_members_are_called_as_their_tar_calls_them(folder):
    # as `tar cf all.tar .` writes it
    tar = folder.parent / "all.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(folder, ".")
    pictures = list_pictures(str(tar))
    assert f"tar://./A/9.png::{tar}" in pictures.paths
    for number, path in enumerate(pictures.paths):
        with fsspec.open(path) as file:
            assert file.read() == pictures.read(number)


def test_the_digest_tells_lists_apart(folder):
    tar = folder / "all.tar"
    names = ["A/9.png", "A/10.png", "b.png"]
    digests = set()
    for order in (names, names[::-1], names[:2]):
        digests.add(list_pictures(str(write_tar(tar, folder, order))).digest)
    before = list_pictures(str(folder)).digest
    assert before == list_pictures(str(folder)).digest
    (folder / "A/9.png").rename(folder / "A/8.png")
    digests |= {before, list_pictures(str(folder)).digest}
    # the same names of other sizes: members lie elsewhere
    (folder / "A/10.png").write_bytes(random.Random(0).randbytes(5000))
    (folder / "A/8.png").rename(folder / "A/9.png")
    digests.add(list_pictures(str(write_tar(tar, folder, names))).digest)
    assert len(digests) == 6


def test_what_cannot_be_listed_is_refused_with_a_reason(folder, tmp_path):
    def refused(data, words, error=ValueError, **options):
        with pytest.raises(error, match=words):
            list_pictures(str(data), **options)

    refused(tmp_path / "none", "Nothing is at", FileNotFoundError)
    refused("", "Nothing is at", FileNotFoundError)
    refused("memory://none", "Nothing is at", FileNotFoundError)
    refused(folder, "Leave it out", column="path")
    refused(folder / "b.png", "Received: .*b.png")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "No picture")
    refused(tmp_path / "empty/*.tar", "No picture")
    refused("unheard://of", "unheard")
    refused("tar://x.png::a.tar", "chain")
    (tmp_path / "list.csv").write_text("file\na.png\n")
    refused(tmp_path / "list.csv", "Missing: path")
    (tmp_path / "list.csv").write_text("path,class\n,owl\n")
    refused(tmp_path / "list.csv", "in row 1")
    (tmp_path / "list.csv").write_text("path\n")
    refused(tmp_path / "list.csv", "no row")
    parquet.write_table(pyarrow.table({"path": ["a.png", None]}), tmp_path / "list.parquet")
    refused(tmp_path / "list.parquet", "None in row 2")
    refused(tmp_path / "list.parquet", "It has: path", column="photo")
    (tmp_path / "list.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path / "list.parquet", "as Parquet")


def test_damaged_and_packed_tars_are_refused(folder, tmp_path):
    tar = write_tar(tmp_path / "some.tar", folder, ["A/9.png", "b.png"])
    whole = tar.read_bytes()
    tar.write_bytes(whole[: 2 * 512 + 700])
    with pytest.raises(ValueError, match="damaged"):
        list_pictures(str(tar))
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as archive:
        archive.add(folder / "b.png")
    with pytest.raises(ValueError, match="unpack it"):
        list_pictures(str(tmp_path / "packed.tar.gz"))
    # a listed tar that is cut off later: an error of the disk, not of the picture
    tar.write_bytes(whole)
    pictures = list_pictures(str(tar))
    tar.write_bytes(whole[:600])
    with pytest.raises(OSError, match="shorter"):
        pictures.read(1)
