"""Names of files that are no UTF-8, or written in two ways, under every locale."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_ms.curriculum.subsets import CurriculumSubsets
from keras_ms.curriculum.table import read_curriculum, write_curriculum
from keras_ms.data.augmented_views import augmented_batches
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.file_names import file_bytes, file_path, same_name, shown_name, some_names
from keras_ms.data.image_list import ImageList
from keras_ms.data.images import evaluation_batches
from keras_ms.data.text_files import read_csv, read_lines, read_text
from keras_ms.run.images import load_run_images
from keras_ms.run.settings import Settings

LATIN = "caf\udce9"  # the byte 0xe9
NFC, NFD = "caf\u00e9", "cafe\u0301"


def make(root, names, per_class=3):
    for value, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            Image.new("RGB", (16, 16), (40 * value, 0, 0)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def latin(tmp_path):
    """A folder, a class and a file whose names are no UTF-8."""
    root = make(tmp_path / LATIN, ["a", "b", "c", LATIN])
    os.rename(root / "a" / "0.png", root / "a" / f"{LATIN}.png")
    return root


def test_names_are_shown_and_open_files():
    assert shown_name("crow") == "crow" and shown_name(NFC) == NFC
    assert shown_name(LATIN) == r"caf\xe9" == shown_name(b"caf\xe9")
    assert shown_name("\ud800") == r"\ud800" and shown_name(3) == "3"
    assert same_name(NFC) == same_name(NFD) == NFC
    assert file_bytes(LATIN) == b"caf\xe9" and file_path(LATIN) == LATIN
    some_names([LATIN] * 12).encode()


def test_paths_may_be_given_as_bytes():
    images = ImageList([b"caf\xe9", b"b"], [0, 0], [LATIN], ["test"] * 2, name=LATIN)
    assert images.paths.tolist() == [LATIN, "b"]
    assert images.class_names == (r"caf\xe9",) and images.name == r"caf\xe9"


@pytest.mark.parametrize("cache", [True, False])
def test_names_that_are_no_utf8_are_read_all_the_way(latin, cache):
    images = ImageList.from_folder(latin)
    assert images.class_names == ("a", "b", "c", r"caf\xe9") and images.name == r"caf\xe9"
    json.dumps([images.class_names, images.name], ensure_ascii=False).encode()
    for split, values in (("train", {0, 40}), ("test", {80, 120})):
        part = images.subset(split)
        batches = balanced_batches(
            part, classes_per_batch=2, images_per_class=3, image_size=16, cache=cache
        )
        views, labels = next(iter(batches))
        assert set(views.numpy()[..., 0].ravel()) == values
        assert (views.numpy()[:, 0, 0, 0] == 40 * labels.numpy()).all()
    shown = [batch.numpy() for batch in augmented_batches(images, 16)]
    assert (np.concatenate(shown)[:, 0, 0, 0] == 40 * images.labels).all()


def test_evaluation_reads_names_that_are_no_utf8(latin):
    images = ImageList.from_folder(latin)
    shown = np.concatenate([batch.numpy() for batch, _ in evaluation_batches(images, 16)])
    assert (shown[:, 0, 0, 0] == 40 * images.labels).all()


def test_messages_and_tables_hold_such_names(latin, tmp_path):
    (latin / LATIN / "bad.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"caf\\xe9/bad.jpg") as error:
        ImageList.from_folder(latin)
    str(error.value).encode()
    with pytest.raises(ValueError, match=r"Not there: z\\xe9") as error:
        ImageList.from_folder(latin, test_classes=["z\udce9"], check_images=False)
    images = ImageList.from_folder(latin, test_classes=[LATIN], skip_unreadable=True)
    assert images.class_names[images.subset("test").labels[0]] == r"caf\xe9"
    size = len(images)
    found = CurriculumSubsets(
        np.arange(size) % 3, np.ones(size), np.ones(size), np.zeros(size, bool)
    )
    write_curriculum(tmp_path / "table.csv", found, images)
    moved = dataclasses.replace(images, paths=[f"/x{path}" for path in images.paths])
    assert read_curriculum(tmp_path / "table.csv", moved).subset.tolist() == found.subset.tolist()


def test_a_table_is_read_where_accents_are_written_otherwise(tmp_path):
    one, other = (
        ImageList([f"/x/{name}/{n}.jpg" for n in range(3)], [0] * 3, [name], ["train"] * 3)
        for name in (NFC, NFD)
    )
    found = CurriculumSubsets(np.arange(3), np.ones(3), np.ones(3), np.zeros(3, bool))
    for written, read in ((one, other), (other, one)):
        write_curriculum(tmp_path / "table.csv", found, written)
        assert read_curriculum(tmp_path / "table.csv", read).subset.tolist() == [0, 1, 2]


def test_accents_written_in_two_ways_are_one_name(tmp_path):
    root = make(tmp_path / "birds", ["a", "b", NFD, "zo\u00eb"])
    names = tmp_path / "test.txt"
    names.write_bytes(f"{NFC}\r\n\r\n zoe\u0308 \r\n".encode("utf-8-sig"))
    settings = Settings.from_values(
        data_dir=str(root), test_classes=str(names), validation_fraction=0.0, dataset="folder"
    )
    images = load_run_images(settings, log=lambda line: None)
    assert images.class_names == ("a", "b", NFC, "zo\u00eb")
    assert set(images.subset("test").labels) == {2, 3}
    assert all(os.path.isfile(path) for path in images.paths)
    make(root, [NFC])
    with pytest.raises(ValueError, match=r"NFC and NFD.*cafe\\u0301' and .*caf\\xe9'.*one of them"):
        ImageList.from_folder(root)


def test_an_accent_in_two_splits_is_one_class(tmp_path):
    make(tmp_path, [f"train/{NFC}", "train/b", f"test/{NFD}", "test/d"])
    with pytest.raises(ValueError, match=f"class-disjoint.*In more than one: {NFC}"):
        ImageList.from_folder(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a\nb\xe9\n", "0xe9 in line 2 of .*list.txt, which is none; it may be Latin-1"),
        (b"a\r\rb\xe9", "in line 3"),
        ("a\nb".encode("utf-16-le"), "zero bytes, the first in line 1: .*UTF-16 without"),
        (b"\xff\xfea\0b", "begins as UTF-16 and is damaged.*Save it as UTF-8"),
    ],
)
def test_bytes_that_are_no_text_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"Expected names in UTF-8.*{message}"):
        read_text(path, "names")
    if b"\xe9" in content:
        assert "b\udce9" in read_lines(path, keep_bytes=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_marked_encoding_is_read(tmp_path, encoding):
    path = tmp_path / "list.txt"
    path.write_bytes("é\r\nb\n\rc".encode(encoding))
    assert read_lines(path) == ["é", "b", "", "c"]
    for wrong, found in ((tmp_path, "It is a folder"), (tmp_path / "no", "There is no such file")):
        with pytest.raises(FileNotFoundError, match=f"Expected names. {found}"):
            read_lines(wrong, "names")


def test_spaces_of_names_that_programs_write_are_kept(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text('path,x\n" a",1\n b ,2\n')
    assert [row["path"] for _, row in read_csv(path)[1]] == ["a", "b"]
    assert [row["path"] for _, row in read_csv(path, exact=True)[1]] == [" a", " b "]


@pytest.mark.slow
def test_names_are_read_where_the_system_says_ascii(tmp_path):
    """LC_ALL=C: every name with an accent holds surrogates then."""
    root = make(tmp_path / "données", ["a", "b", NFC, LATIN])
    (tmp_path / "test.txt").write_text(f"{NFC}\nb\n", encoding="utf-8")
    files = [f"données/{name}/{n}.png" for name, n in itertools.product("ab", range(3))]
    lines = ["path,label,split"] + [f"{file},é{file[8]},test" for file in files]
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    code = """
import json, os, sys
import numpy as np
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.run.images import load_run_images
from keras_ms.run.settings import Settings
assert sys.getfilesystemencoding() == "ascii"
root, names, table = json.loads(sys.stdin.read())
settings = Settings.from_values(data_dir=root, test_classes=names, validation_fraction=0.0)
images = load_run_images(settings, log=lambda line: None)
found = [images.class_names, images.name]
for split in ("train", "test"):
    part = images.subset(split)
    views, labels = next(iter(balanced_batches(
        part, classes_per_batch=2, images_per_class=3, image_size=16)))
    assert set(views.numpy()[:, 0, 0, 0]) == {40 * {"a": 0, "b": 1, "c": 2}.get(
        images.class_names[n][0], 0) + 40 * (images.class_names[n][3:] == "\\\\xe9")
        for n in set(part.labels)}, split
settings = Settings.from_values(data_dir=table, validation_fraction=0.0)
listed = load_run_images(settings, lambda line: None, ("test",))
assert all(os.path.isfile(path) for path in listed.paths)
print(json.dumps([*found, listed.class_names]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(root), str(tmp_path / "test.txt"), str(tmp_path / "list.csv")]),
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [["a", "b", r"caf\xe9", NFC], "données", ["éa", "éb"]]
