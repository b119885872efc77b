import logging
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from keras_ms.data.sets import csv_list

# what the lines say is tested with files that are empty
load_csv = partial(csv_list.load_csv, check_images=False)

LINES = [
    "path,label,split,is_query,is_gallery",
    "a/1.jpg,10,train,0,0",
    "a/2.jpg,10,train,0,0",
    "b/1.jpg,9,val,1,1",
    "b/2.jpg,9,validation,1,1",
    "c/1.jpg,11,test,1,0",
    "c/2.jpg,11,test,no,TRUE",
]


def write(folder, lines, make_images=True):
    path = folder / "shoes.csv"
    path.write_text("\n".join(lines) + "\n")
    for line in lines[1:] if make_images else ():
        image = folder / line.split(",")[0].strip('"')
        image.parent.mkdir(exist_ok=True)
        image.touch()
    return path


def test_columns(tmp_path):
    images = load_csv(write(tmp_path, LINES))
    # sorted as numbers
    assert images.class_names == ("9", "10", "11") and images.labels.tolist() == [1, 1, 0, 0, 2, 2]
    assert images.counts() == {"train": (1, 2), "validation": (1, 2), "test": (1, 2)}
    assert images.paths[0] == str(tmp_path / "a/1.jpg") and images.name == "shoes"
    # classes may be held out of the training images: these are both
    assert images.is_query.tolist() == [True, True, True, True, True, False]
    assert images.is_gallery.tolist() == [True, True, True, True, False, True]
    assert images.subset("test").has_gallery() and not images.subset("validation").has_gallery()


def test_any_order_of_columns_a_byte_order_mark_and_no_flags(tmp_path):
    (tmp_path / "x.jpg").touch()
    (tmp_path / "y z.jpg").touch()
    path = tmp_path / "list.csv"
    lines = ["\ufeffsplit,colour,label,path", 'train,red,owl,"x.jpg"', "test,,crow, y z.jpg"]
    path.write_text("\n".join(lines), encoding="utf-8")
    images = load_csv(path)
    assert images.class_names == ("crow", "owl") and images.labels.tolist() == [1, 0]
    assert images.is_query is None and images.is_gallery is None


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_as_spreadsheets_write_it(tmp_path, mark, end, encoding):
    lines = [
        "Path,Label , split",
        "",
        '"a b.jpg",café,train',
        " c.jpg , owl ,Train,",
        ",,",
        f'd.jpg,"big{mark} old{mark} owl",TEST',
        "",
    ]
    lines = [line if "big" in line else line.replace(",", mark) for line in lines]
    lines[5] = f'd.jpg{mark}"big{mark} old{mark} owl"{mark}TEST'
    for name in ("a b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).touch()
    path = tmp_path / "list.csv"
    path.write_bytes(end.join(lines).encode(encoding))
    images = load_csv(path)
    assert images.class_names == (f"big{mark} old{mark} owl", "café", "owl")
    assert images.labels.tolist() == [1, 2, 0]
    assert images.split.tolist() == ["train", "train", "test"]


def test_a_spreadsheet_may_name_its_delimiter(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    path = tmp_path / "list.csv"
    path.write_text("sep=|\npath|label|split\na.jpg|x, y|test\nb.jpg|z|exam\n")
    with pytest.raises(ValueError, match="in line 4 of"):
        load_csv(path)
    path.write_text("sep=|\npath|label|split\na.jpg|x, y|test\nb.jpg|z|test\n")
    assert load_csv(path).class_names == ("x, y", "z")


def test_labels_of_thousands_of_digits_are_sorted_as_numbers(tmp_path):
    numbers = ["9" * 5000, "1" + "0" * 5000, "007", "10", "٣"]
    lines = ["path,label,split", *(f"{n}.jpg,{label},test" for n, label in enumerate(numbers))]
    images = load_csv(write(tmp_path, lines))
    assert images.labels.tolist() == [3, 4, 1, 2, 0]


def test_accents_written_in_two_ways_and_folders_of_windows(tmp_path):
    (tmp_path / "cafe\u0301").mkdir()
    (tmp_path / "cafe\u0301" / "1.jpg").touch()
    (tmp_path / "cafe\u0301" / "u\u0308.jpg").touch()
    path = tmp_path / "list.csv"
    path.write_text(
        "path,label,split\ncaf\u00e9\\1.jpg,caf\u00e9,test\ncaf\u00e9/\u00fc.jpg,cafe\u0301,test\n",
        encoding="utf-8",
    )
    images = load_csv(path)
    assert images.class_names == ("caf\u00e9",) and images.labels.tolist() == [0, 0]
    assert all(os.path.isfile(name) for name in images.paths)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "caf\udce9.jpg").touch()
    path = tmp_path / "list.csv"
    path.write_bytes(b"path,label,split\ncaf\xe9.jpg,a,test\n")
    assert load_csv(path).paths.tolist() == [str(tmp_path / "caf\udce9.jpg")]
    for line in (b"k\xe9.jpg,a,test", b"caf\xe9.jpg,\xe9,test", b"caf\xe9.jpg,a,t\xe9st"):
        path.write_bytes(b"path,label,split\n\n" + line + b"\n")
        with pytest.raises(ValueError, match="0xe9 in line 3 of .*list.csv.*as UTF-8"):
            load_csv(path)


def test_absolute_paths(tmp_path):
    image = tmp_path / "elsewhere.jpg"
    image.touch()
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / "lists", ["path,label,split", f"{image},a,test"], make_images=False)
    assert load_csv(path).paths.tolist() == [str(image)]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([""], "Missing: path, label, split. Received: no line"),
        (["path|label|split"], "commas, semicolons or tabs. Missing: path, label, split"),
        (["path;label;split"], "a line for each image"),
        (["path,label,split,label", "a/1.jpg,1,test,1"], "each column once.*twice: label"),
        (["path,label"], "Missing: split"),
        (LINES[:1], "a line for each image"),
        ([LINES[0], "a/1.jpg,1,exam,1,1"], "train, validation or test as split in line 2.*'exam'"),
        ([LINES[0], "a/1.jpg,,train,1,1"], "some text as label in line 2"),
        ([LINES[0], "a/1.jpg,1,test,maybe,1"], "1 or 0 as is_query in line 2.*'maybe'"),
        ([LINES[0], "a/1.jpg,1,test,1"], "1 or 0 as is_gallery in line 2.*None"),
        (LINES[:2] + ["a/2.jpg,10,train,1,1,left"], "5 values in line 3.*: 6. Quote a value"),
        (LINES + [LINES[2]], "once in .*shoes.csv. There more than once: .*a/2.jpg"),
        ([LINES[0], "a/1.jpg,1,test,0,0"], "test images.*0 queries, 0 in the gallery"),
        ([LINES[0], "a/1.jpg,1,test,1,0"], "1 queries, 0 in the gallery"),
        (["path,label,split", "a/1.jpg,1,test", "a/2.jpg,1,train"], "class-disjoint"),
        (["path,label,split", 'a/1.jpg,"1,test'], "Expected a CSV file"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        load_csv(write(tmp_path, lines))


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.csv"):
        load_csv(tmp_path / "none.csv")
    path = write(tmp_path, LINES)
    (tmp_path / "b/2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 6 images .*b/2.jpg"):
        load_csv(path)
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(ValueError, match="CSV file in UTF-8"):
        load_csv(path)


def test_damaged_images_are_named_or_skipped(tmp_path, caplog):
    path = write(tmp_path, LINES)
    for number, line in enumerate(LINES[1:]):
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(tmp_path / line.split(",")[0])
    told = []
    assert len(csv_list.load_csv(path, progress=lambda *done: told.append(done))) == 6
    assert told[-1] == (6, 6)
    (tmp_path / "a/2.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="(?s)1 of 6 images cannot be read.*a/2.jpg.*skip_unread"):
        csv_list.load_csv(path)
    with caplog.at_level(logging.WARNING):
        images = csv_list.load_csv(path, skip_unreadable=True)
    assert "a/2.jpg" in caplog.text and len(images) == 5
    # the columns of the others are still theirs
    assert images.is_query.tolist() == [True, True, True, True, False]
    assert len(csv_list.load_csv(path, check_images=False)) == 6
