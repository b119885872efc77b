"""keras-ms index and keras-ms search: what they print, write and refuse."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("lancedb", reason='needs pip install -e ".[search]"')

from keras_ms.cli.main import main  # noqa: E402
from keras_ms.export.embedder import load_embedder  # noqa: E402
from keras_ms.search import Index, embed_pictures  # noqa: E402


def small_model(seed):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed))(image)
    return keras.Model(image, keras.layers.GlobalMaxPooling2D()(x))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Eight pictures and a broken one, two models, and embeddings of the first."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(8):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "photos" / f"{number}.png")
    (place / "photos" / "x.png").write_bytes(b"")
    for name, seed in (("birds", 1), ("cars", 2)):
        small_model(seed).save(place / f"{name}.keras")
    embed_pictures(
        place / "birds.keras", place / "photos", to=place / "rows", shard_size=3, verbose=False
    )
    return place


@pytest.fixture
def there(place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.rmtree("an.index", ignore_errors=True)
    return place


@pytest.fixture
def filled(there):
    assert main(["index", "an.index", "rows", "--model", "birds.keras"]) == 0
    return there


def test_an_index_is_made_of_embeddings_and_told_about(there, capsys):
    assert main(["index", "an.index", "rows"]) == 0
    printed = capsys.readouterr().out
    assert "Added 8 pictures\n" in printed
    assert "an.index: 8 pictures, 4 numbers each, of birds.keras (fingerprint" in printed
    assert main(["index", "an.index", "rows"]) == 0
    assert "Added 0 pictures, replaced 8\n" in capsys.readouterr().out
    first = str(there / "photos" / "0.png")
    assert main(["index", "an.index", "--remove", first, "gone.png", "--compact"]) == 0
    printed = capsys.readouterr().out
    assert (
        "Removed 1 of 2 paths. No other one is in it" in printed
        and "an.index: 7 pictures" in printed
    )


def test_pictures_are_embedded_for_an_index_and_for_a_query(there, capsys):
    assert main(["index", "an.index", "photos", "--model", "birds.keras"]) == 0
    printed = capsys.readouterr().out
    assert "Added 8 pictures" in printed
    assert (
        "1 picture could not be embedded, the first is photos/x.png: the file is empty" in printed
    )
    # the index remembers its model; the same rows as of keras-ms embed
    assert main(["search", "an.index", "photos/3.png", "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photos/3.png" and lines[1] == "    1   1.0000  photos/3.png"
    assert "1 query in 8 pictures" in lines
    index = Index("an.index")
    rows = dict(pair for paths, part in index.batches() for pair in zip(paths, part))
    assert main(["index", "other.index", "rows"]) == 0
    for paths, part in Index("other.index").batches():
        for path, row in zip(paths, part):
            name = "photos/" + path.rpartition("/")[2]
            np.testing.assert_allclose(rows[name], row, atol=1e-6)
    shutil.rmtree("other.index")


def test_one_picture_is_added_by_its_own_name(filled, capsys):
    shutil.copy("photos/3.png", "new.png")
    assert main(["index", "an.index", "new.png", "--model", "birds.keras"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    # nothing of the list that it is embedded by
    assert first == "Added 1 picture" and len(others) == 1
    assert main(["search", "an.index", "new.png", "--top", "2"]) == 0
    assert "1.0000  new.png" in capsys.readouterr().out


def test_a_picture_is_called_the_same_in_every_way_it_is_given(there, capsys):
    (there / "list.csv").write_text("path\n./photos/0.png\nphotos//1.png\n")
    for data in ("photos", "./photos", "./photos//", "./list.csv", "./photos/0.png"):
        assert main(["index", "an.index", data, "--model", "./birds.keras"]) == 0
    paths = sorted(path for part, _ in Index("an.index").batches() for path in part)
    assert paths == [f"photos/{number}.png" for number in range(8)]
    # absolute paths are others
    assert main(["index", "an.index", str(there / "photos" / "0.png")]) == 0
    assert len(Index("an.index")) == 9
    capsys.readouterr()
    assert main(["index", "an.index", "--remove", "./photos/0.png", "photos/./1.png"]) == 0
    assert "Removed 2 of 2 paths\n" in capsys.readouterr().out
    assert len(Index("an.index")) == 7


def test_results_are_written_as_a_page_a_table_or_json(filled, capsys):
    for name in ("found.html", "found.csv", "found.json"):
        assert main(["search", "an.index", "photos", "--top", "3", "--to", name]) == 0
        assert f"Wrote {name}" in capsys.readouterr().out
    with open("found.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 and rows[0]["rank"] == "1" and float(rows[0]["similarity"]) == 1
    found = json.loads((filled / "found.json").read_text())
    assert found["model"] == "birds.keras" and len(found["results"]) == 8
    page = (filled / "found.html").read_text()
    assert page.count("data:image/jpeg") >= 8 and "8 queries in 8 pictures" in page


def test_embeddings_are_queries_too(filled, capsys):
    _, rows = next(Index("an.index").batches())
    np.save("rows.npy", rows[:2])
    assert main(["search", "an.index", "rows.npy"]) == 1
    assert "give --model" in capsys.readouterr().err
    assert main(["search", "an.index", "rows.npy", "--model", "birds.keras", "--top", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("row 0\n    1   1.0000") and "2 queries in 8" in printed
    assert main(["search", "an.index", "rows", "--top", "1"]) == 0
    assert "8 queries in 8" in capsys.readouterr().out


def test_saved_embeddings_of_an_evaluation_fit(filled, capsys):
    for name in "ab":
        (filled / "classes" / name).mkdir(parents=True, exist_ok=True)
        for number in range(4):
            shutil.copy(filled / "photos" / f"{number}.png", filled / "classes" / name)
    words = ["evaluate", "birds.keras", "classes", "--test-fraction", "1", "--bootstrap", "0"]
    assert main([*words, "--save-embeddings", "classes.npz"]) == 0
    assert main(["index", "an.index", "classes.npz"]) == 0
    assert "Added 8 pictures" in capsys.readouterr().out
    assert main(["search", "an.index", "--duplicates", "0.99999"]) == 0
    printed = capsys.readouterr().out
    assert "group 1\n" in printed and "in 8 pictures" not in printed
    assert "of similarity 0.99999 or more" in printed


def test_another_model_is_refused_by_both_names(filled, capsys):
    for words in (
        ["index", "an.index", "rows", "--model", "cars.keras"],
        ["index", "an.index", "photos", "--model", "cars.keras"],
        ["search", "an.index", "photos/1.png", "--model", "cars.keras"],
        ["search", "an.index", "rows", "--model", "cars.keras"],
    ):
        assert main(words) == 1
        printed = capsys.readouterr().err
        assert "birds.keras" in printed and "cars.keras" in printed


def nearest(capsys):
    """The first picture that the last search has printed."""
    return capsys.readouterr().out.splitlines()[1].split()[1:]


def test_an_index_keeps_how_its_pictures_were_seen(there, capsys):
    assert main(["index", "an.index", "photos", "--model", "birds.keras", "--resize-to", "19"]) == 0
    assert "seen at 8 x 8 pixels, shorter side 19; exact" in capsys.readouterr().out
    assert main(["search", "an.index", "photos/3.png"]) == 0
    assert nearest(capsys) == ["1.0000", "photos/3.png"]
    # what is added later is seen so too
    shutil.copy("photos/3.png", "new.png")
    assert main(["index", "an.index", "new.png"]) == 0
    assert main(["search", "an.index", "photos/3.png", "--top", "2"]) == 0
    assert capsys.readouterr().out.count("   1.0000  ") == 2
    for words in (["index", "an.index", "new.png"], ["search", "an.index", "photos/3.png"]):
        assert main([*words, "--resize-to", "19"]) == 0
        assert main([*words, "--resize-to", "12"]) == 1
        assert "Expected --resize-to 19, as the pictures in an.index" in capsys.readouterr().err
    # rows of the file's own rule are others
    for words in (["index", "an.index", "rows"], ["search", "an.index", "rows"]):
        assert main(words) == 1
        assert "resize_to=19, and not 9" in capsys.readouterr().err
    assert len(Index("an.index")) == 9


def test_embeddings_say_how_their_pictures_were_seen(there, capsys):
    embed_pictures("birds.keras", "photos", to="rows19", resize_to=19, verbose=False)
    assert main(["index", "an.index", "rows19"]) == 0
    assert main(["search", "an.index", "photos/3.png", "--model", "birds.keras"]) == 0
    assert Index("an.index").view == (8, 19, True)
    assert "    1   1.0000  photos/3.png" in capsys.readouterr().out
    # those of an evaluation too
    shutil.rmtree("an.index")
    shutil.rmtree("rows19")
    for number in range(4):
        folder = there / "seen" / "ab"[number // 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(there / "photos" / f"{number}.png", folder)
    words = ["evaluate", "birds.keras", "seen", "--test-fraction", "1", "--bootstrap", "0"]
    words += ["--resize-to", "19", "--save-embeddings", "seen.npz", "--no-apply-exif-orientation"]
    assert main([*words, "--metrics", "r_precision"]) == 0
    assert main(["index", "an.index", "seen.npz"]) == 0
    assert Index("an.index").view == (8, 19, False)


def test_an_index_of_unknown_view_works_as_before(there, capsys):
    model = load_embedder("birds.keras")
    Index.create("an.index", model=model, dimension=4, model_path="birds.keras")
    assert main(["index", "an.index", "photos", "--resize-to", "19"]) == 0
    assert "seen at" not in capsys.readouterr().out and Index("an.index").view is None
    assert main(["search", "an.index", "photos/3.png", "--resize-to", "19"]) == 0
    assert nearest(capsys) == ["1.0000", "photos/3.png"]
    assert main(["search", "an.index", "rows", "--top", "1"]) == 0


def test_embeddings_that_do_not_say_their_view_are_told_of(filled, capsys):
    _, rows = next(Index("an.index").batches())
    np.save("rows.npy", rows[:2])
    assert main(["search", "an.index", "rows.npy", "--model", "birds.keras"]) == 0
    assert "rows.npy does not say at which size" in capsys.readouterr().err


def test_what_is_known_at_the_start_is_told_before_pictures_are_embedded(
    there, monkeypatch, capsys
):
    assert main(["index", "an.index", "rows", "--model", "birds.keras"]) == 0

    def embedded(*args, **options):
        raise AssertionError("pictures were embedded")

    monkeypatch.setattr("keras_ms.search.pictures_now.embed_pictures", embedded)
    (there / "full").mkdir(exist_ok=True)
    (there / "full" / "notes.txt").write_text("")
    for words, text in (
        (["index", "full", "photos", "--model", "birds.keras"], "new or empty folder"),
        (["index", "rows.npy", "photos", "--model", "birds.keras"], "Received a file: rows.npy"),
        (["search", "an.index", "photos", "--model", "cars.keras"], "cannot be compared"),
        (["search", "an.index", "photos", "--approximate"], "no approximate search yet"),
    ):
        np.save("rows.npy", np.ones((1, 4)))
        assert main(words) == 1
        assert text in capsys.readouterr().err


def test_a_model_that_moved_is_remembered_where_it_lies_now(filled, capsys):
    (filled / "birds.keras").rename("moved.keras")
    try:
        assert main(["index", "an.index", "photos/1.png", "--model", "moved.keras"]) == 0
        assert main(["search", "an.index", "photos/1.png"]) == 0
    finally:
        (filled / "moved.keras").rename("birds.keras")
    # without anything to add
    assert main(["search", "an.index", "photos/1.png"]) == 1
    assert "keras-ms index an.index --model FILE remembers it" in capsys.readouterr().err
    assert main(["index", "an.index", "--model", "cars.keras"]) == 1
    assert main(["index", "an.index", "--model", "birds.keras"]) == 0
    assert main(["search", "an.index", "photos/1.png"]) == 0


def test_a_model_that_moved_or_changed_is_told(filled, capsys):
    (filled / "birds.keras").rename("moved.keras")
    try:
        assert main(["search", "an.index", "photos/1.png"]) == 1
        assert "birds.keras is not there any more. Give --model" in capsys.readouterr().err
        assert main(["search", "an.index", "photos/1.png", "--model", "moved.keras"]) == 0
        shutil.copy("cars.keras", "birds.keras")
        assert main(["search", "an.index", "photos/1.png"]) == 1
        assert "cannot be compared" in capsys.readouterr().err
    finally:
        (filled / "moved.keras").rename("birds.keras")


def test_a_query_that_cannot_be_read_says_why(filled, capsys):
    assert main(["search", "an.index", "photos/x.png"]) == 1
    assert "photos/x.png cannot be embedded: the file is empty" in capsys.readouterr().err


def test_what_is_no_index_and_what_has_no_model_is_told(there, capsys):
    for words, text in (
        (["index", "an.index"], "No index is at an.index"),
        (["index", "an.index", "photos"], "Give --model"),
        (["search", "photos", "photos/1.png"], "None is at photos"),
        (["search", "an.index", "photos/1.png"], "Nothing is at an.index"),
        (["index", "photos", "rows"], "new or empty folder"),
    ):
        assert main(words) == 1
        assert text in capsys.readouterr().err
    assert not (there / "an.index").exists()
