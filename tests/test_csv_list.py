import numpy as np
import pytest

from keras_ms.data.csv_list import load_csv

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
        (["path;label;split"], "Missing: path, label, split"),
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
