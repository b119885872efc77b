"""Folders as people and archives arrange them: understood, or explained; nothing is left unsaid."""

import logging
import os
import socket

import pytest
from PIL import Image

from keras_ms.data.folder_listing import list_folder
from keras_ms.data.image_list import ImageList


def add(root, *names, per_folder=2):
    """Small images in each of the folders below `root`; a name with a dot is that file alone."""
    for name in names:
        path = root / name
        files = [path] if path.suffix else [path / f"{n}.png" for n in range(per_folder)]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9)).save(file, "PNG")
    return root


def splits(images):
    """{split: its class names}."""
    return {
        split: [images.class_names[label] for label in dict.fromkeys(images.subset(split).labels)]
        for split in images.counts()
    }


def test_what_is_passed_over_is_counted_by_reason_and_told(tmp_path, caplog):
    add(tmp_path, *"abcd", "a/more", "b/more/deep", "top.png", "a/.hidden.jpg", "a/._1.jpg")
    for name in (
        "a/1.jxl", "a/2.JXL", "b/3.jxl", "a/notes.txt", "a/x.jpg.part", "Thumbs.db", "c/0.png.1",
        "c/0.png.txt",
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "a" / "README").write_text("text")
    os.rename(tmp_path / "a" / "more" / "0.png", tmp_path / "c" / "noending")
    (tmp_path / "c" / "gone.jpg").symlink_to(tmp_path / "nowhere" / "x.jpg")
    (tmp_path / "c" / "itself.jpg").symlink_to(tmp_path / "c" / "itself.jpg")
    (tmp_path / "c" / "up").symlink_to(tmp_path)
    (tmp_path / ".git").mkdir()
    add(tmp_path, ".cache/x.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "d" / "socket.jpg"))
    with caplog.at_level(logging.INFO):
        images = ImageList.from_folder(tmp_path)
    assert images.passed_over == {
        ".jxl": 3,
        "images in subfolders of class folders": 3,
        "links that lead nowhere": 2,
        "links to folders that are listed already": 1,
        "images beside the class folders": 1,
        "hidden images": 1,
        "hidden files": 2,  # of macOS and Windows
        "hidden folders of images": 1,
        "hidden folders": 1,
        "images without an ending": 1,
        "files without an ending": 1,
        "files with more after an image's ending": 2,
        "pipes, sockets or devices": 1,
        ".txt": 2,
    }
    (line,) = [r for r in caplog.records if "files used" in r.message]
    assert line.levelname == "WARNING" and "\n" not in line.message
    # folders are no files
    assert f"{tmp_path}: 8 of 27 files used; passed over: 3 " in line.message
    assert "3 .jxl" in line.message and "2 links that lead nowhere" in line.message
    assert line.message.endswith("class_depth=1 takes the images in subfolders")
    assert line.message.index("1 hidden image,") < line.message.index(".txt")
    # every list made from it knows
    held = ImageList.from_folder(tmp_path, test_fraction=0).hold_out_validation(0.5)
    for subset in (images.subset("train"), held, held.subset("validation")):
        assert subset.passed_over == images.passed_over


def test_what_is_no_image_is_no_warning(tmp_path, caplog):
    add(tmp_path, *"abcd")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    with caplog.at_level(logging.INFO):
        images = ImageList.from_folder(tmp_path)
    assert images.passed_over == {".txt": 1, "hidden files": 1}
    assert [r.levelname for r in caplog.records if "8 of 10 files used" in r.message] == ["INFO"]


def test_what_is_left_out_on_request_is_counted_too(tmp_path):
    add(tmp_path, *"abcde")
    add(tmp_path, "f", per_folder=1)
    for name in ("a/bad.jpg", "e/bad.jpg"):
        (tmp_path / name).write_text("no image")
    images = ImageList.from_folder(
        tmp_path, test_fraction=0, skip_unreadable=True, skip_small_classes=True
    )
    assert images.passed_over == {
        "images that cannot be read": 2,
        "images of classes that are too small": 1,
    }


@pytest.mark.parametrize(
    "train, validation, test",
    [
        ("train", "valid", "test"), ("Train", "Val", "Test"), ("training", "validation", "testing"),
        ("TRAIN", "dev", "TEST"), ("data/train", "data/val", "data/test"),
        ("train/images", "val/images", "test/images"),
    ],
)  # fmt: skip
def test_split_folders_by_their_usual_names(tmp_path, train, validation, test):
    for split, names in ((train, "cd"), (validation, "ef"), (test, "ab")):
        add(tmp_path, *(f"{split}/{name}" for name in names))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").touch()
    images = ImageList.from_folder(tmp_path)
    assert splits(images) == {"train": ["c", "d"], "validation": ["e", "f"], "test": ["a", "b"]}
    assert images.passed_over == {".json": 1}


def test_images_beside_the_classes_of_a_split(tmp_path):
    add(tmp_path, "train/a", "train/b", "test/c", "test/d", "train/x.png", "y.png")
    assert ImageList.from_folder(tmp_path).passed_over == {"images beside the class folders": 2}


@pytest.mark.parametrize("split, name", [("Train", "train"), ("val", "validation")])
def test_a_single_split(tmp_path, split, name):
    add(tmp_path, f"{split}/a", f"{split}/b")
    assert splits(ImageList.from_folder(tmp_path)) == {name: ["a", "b"]}


def test_classes_may_be_called_as_splits_are(tmp_path):
    add(tmp_path, "car", "train", "test", "bicycle")
    assert ImageList.from_folder(tmp_path).class_names == ("bicycle", "car", "test", "train")


@pytest.mark.parametrize("wrapper", ["images", "birds/images"])
def test_a_folder_that_wraps_the_classes_is_gone_into(tmp_path, wrapper, caplog):
    add(tmp_path / wrapper, *"abcd")
    add(tmp_path, "__MACOSX/images/a/._0.png", "preview.png")
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "readme.md").touch()
    with caplog.at_level(logging.INFO):
        images = ImageList.from_folder(tmp_path)
    assert splits(images) == {"train": ["a", "b"], "test": ["c", "d"]}
    assert f"its classes are the folders of {tmp_path / wrapper}" in caplog.text
    assert images.passed_over == {
        "images beside the class folders": 1,
        ".md": 1,
        "hidden files": 1,
        "hidden folders": 1,
    }


def test_deeper_folders_are_explained_and_read_as_told(tmp_path):
    add(tmp_path, "cat/lynx", "cat/puma", "dog/fox", "dog/wolf/young", "dog/wolf")
    with pytest.raises(ValueError, match="2 levels below .*as in cat/lynx/0.png.*class_depth=2"):
        ImageList.from_folder(tmp_path)
    images = ImageList.from_folder(tmp_path, class_depth=2)
    assert images.class_names == ("cat/lynx", "cat/puma", "dog/fox", "dog/wolf")
    assert len(images) == 10 and not images.passed_over
    images = ImageList.from_folder(tmp_path, class_depth=1, test_fraction=0)
    assert images.class_names == ("cat", "dog") and len(images) == 10
    with pytest.raises(ValueError, match="4 levels down.*2 levels below.*as in cat/.*=2 or less"):
        ImageList.from_folder(tmp_path, class_depth=4)
    for wrong in (0, 1.5, "2"):
        with pytest.raises(ValueError, match="`class_depth`"):
            ImageList.from_folder(tmp_path, class_depth=wrong)


@pytest.mark.parametrize("wrapper", ["", "archive"])
def test_levels_count_below_the_folders_of_splits(tmp_path, wrapper):
    add(tmp_path / wrapper, "train/cat/lynx", "train/dog/fox", "test/bird/owl", "test/bird/crow")
    images = ImageList.from_folder(tmp_path, class_depth=2)
    assert splits(images) == {"train": ["cat/lynx", "dog/fox"], "test": ["bird/crow", "bird/owl"]}
    add(tmp_path / wrapper, "test/fish/eel")
    with pytest.raises(ValueError, match="2 levels below .*train, as in cat/lynx.*class_depth=2"):
        ImageList.from_folder(tmp_path)


def test_a_wrapping_folder_is_a_level(tmp_path):
    add(tmp_path / "images", "cat/lynx", "cat/puma", "dog/fox", "dog/wolf")
    message = "3 levels below.*as in images/cat/lynx/0.png.*class_depth=3.*class_depth=2"
    with pytest.raises(ValueError, match=message):
        ImageList.from_folder(tmp_path)
    images = ImageList.from_folder(tmp_path, class_depth=3)
    assert images.class_names[0] == "images/cat/lynx" and len(images.class_names) == 4
    assert len(ImageList.from_folder(tmp_path, class_depth=2, test_fraction=0).class_names) == 2


def test_images_below_some_class_folders_are_hinted_at(tmp_path):
    add(tmp_path, "a", "b", "c", "d/more")
    with pytest.raises(ValueError, match="no images: d .*2 images in subfolders"):
        ImageList.from_folder(tmp_path)


@pytest.mark.parametrize(
    "names, message",
    [
        (["0.png"], "no subfolder of images but 1 images, such as 0.png: put them into"),
        (["0.png", "x/notes.txt"], "put them into class folders, or list them .* CSV"),
        (["train/0.png", "test/1.png"], "train has no subfolder of images but 1 images"),
        (["query/a", "gallery/a", "train/b"], "query.*gallery.* share their classes.*CSV"),
        (["bounding_box_train/0.png", "Query/0.png", "bounding_box_test/0.png"], "is_gallery"),
        (["train/a", "test/b", "extra/c"], "train, and beside them extra|test, train.*extra"),
        (["train/a", "train/b", "val/a"], "class-disjoint.*In more than one: a"),
        (["train/images/0.png", "test/images/0.png"], "one folder of images only, images: put"),
        (["a/1.jxl", "b/2.jxl"], "Expected files ending in .jpg.*Found: .jxl .2."),
        (["images/a"], "has 1: a"),
    ],
)
def test_other_layouts_are_explained(tmp_path, names, message):
    add(tmp_path, *names)
    for path in tmp_path.rglob("*.txt"):
        path.write_text("text")
    with pytest.raises(ValueError, match=f"(?s){message}"):
        ImageList.from_folder(tmp_path)


def test_links_are_followed_and_loops_end(tmp_path):
    pool, root = tmp_path / "pool", tmp_path / "root"
    add(pool, *"abc")
    root.mkdir()
    for name in "abc":
        (root / name).symlink_to(pool / name)
    (root / "d").mkdir()
    for n in range(2):
        (root / "d" / f"{n}.png").symlink_to(pool / "a" / f"{n}.png")
    (root / "loop").symlink_to(root)
    (pool / "a" / "parent").symlink_to(pool)
    (root / "d" / "over").symlink_to(tmp_path)
    images = ImageList.from_folder(root)
    assert images.class_names == ("a", "b", "c", "d") and len(images) == 8
    assert images.paths[0] == str(root / "a" / "0.png")
    # one end of each loop: root/loop, and what is met again below a/parent and d/over
    assert images.passed_over["links to folders that are listed already"] >= 3


def test_a_deep_tree_ends(tmp_path):
    deep = tmp_path
    for _ in range(40):
        deep = deep / "x"
    deep.mkdir(parents=True)
    folder = list_folder(tmp_path, (".png",))
    assert sum(f.others["folders that are nested too deeply"] for f in folder.below()) == 1


def test_the_listing_tells_how_far_it_is(tmp_path):
    add(tmp_path, *"abcd", per_folder=3)
    seen = []
    ImageList.from_folder(
        tmp_path, progress=lambda done, total: seen.append(done) if total is None else None
    )
    assert seen[-1] == 12 and seen == sorted(seen)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    add(tmp_path, *"abcd")
    list_all = os.scandir

    def scandir(path):  # root may list every folder
        if path == str(tmp_path / "b"):
            raise PermissionError(13, "Permission denied")
        return list_all(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match="Cannot list the folder .*b' .Permission.*readable"):
        ImageList.from_folder(tmp_path)
