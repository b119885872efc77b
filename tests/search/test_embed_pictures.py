"""Shards of embeddings: the same rows as of one list, whole or not there, gone on with."""

import csv
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ms.data.image_list import ImageList
from keras_ms.export import Preprocessing, export_onnx
from keras_ms.export.embedder import embed_images, load_embedder

fsspec = pytest.importorskip("fsspec", reason='needs pip install -e ".[search]"')
pytest.importorskip("pyarrow", reason='needs pip install -e ".[search]"')

from pyarrow import parquet  # noqa: E402

from keras_ms.search import embed_pictures, shard_maker  # noqa: E402
from keras_ms.search.places import OutputFolder  # noqa: E402

BROKEN = {"c/2.jpg": "empty", "c/5.png": "not an image"}


def small_model(seed=1, size=16):
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.GlobalAveragePooling2D()(
        keras.layers.Conv2D(6, 3, kernel_initializer=keras.initializers.GlorotUniform(seed))(x)
    )
    return keras.Model(image, keras.layers.UnitNormalization()(x))


def write_photos(folder):
    """14 pictures of several kinds in folders, 2 of them broken."""
    random = np.random.default_rng(0)
    for number in range(14):
        name = f"{'abc'[number % 3]}/{number}.{'png' if number % 2 else 'jpg'}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = random.integers(20, 60, 2)
        pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
        image, exif = Image.fromarray(pixels), Image.Exif()
        exif[0x0112] = 1 + number % 8
        (image.convert("L") if number == 7 else image).save(path, exif=exif)
    (folder / "c/2.jpg").write_bytes(b"")
    (folder / "c/5.png").write_bytes(b"text")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Photos, models, and rows of a run that nothing disturbed, five pictures a shard."""
    place = tmp_path_factory.mktemp("place")
    write_photos(place / "photos")
    small_model().save(place / "model.keras")
    (place / "other").mkdir()
    small_model(seed=2).save(place / "other" / "model.keras")
    embedded(place, place / "rows")
    return place


def embedded(place, to, *, model="model.keras", data="photos", **options):
    options = {"shard_size": 5, "batch_size": 2, "verbose": False} | options
    return embed_pictures(place / model, place / data, to=to, **options)


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("part-*.parquet"))}


def rows_of(folder):
    table = parquet.read_table(sorted(Path(folder).glob("part-*.parquet")))
    return table["path"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)


def literal(place):
    """(paths, embeddings) of all good pictures in one list, as evaluation embeds them."""
    photos = place / "photos"
    paths = sorted(str(path) for path in photos.rglob("*.*"))
    good = [path for path in paths if str(Path(path).relative_to(photos)) not in BROKEN]
    images = ImageList(good, [0] * len(good), ("all",), ["test"] * len(good))
    return good, embed_images(load_embedder(place / "model.keras"), images, verbose=False)


def test_the_embeddings_are_those_of_evaluation(place):
    expected_paths, expected = literal(place)
    paths, rows = rows_of(place / "rows")
    assert paths == expected_paths
    assert expected.dtype == rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-6, rtol=0)
    # of pictures that are broken a shard has no row
    assert [parquet.read_metadata(place / "rows" / name).num_rows for name in shards(
        place / "rows")] == [5, 5, 2]  # fmt: skip


def test_a_file_that_prepares_pictures_is_given_them_whole(place, tmp_path):
    pytest.importorskip("tf2onnx", reason='needs pip install -e ".[onnx]"')
    rule = Preprocessing(16, 18, inside=True)
    export_onnx(small_model(), place / "photos.onnx", preprocessing=rule)
    embedded(place, tmp_path, model="photos.onnx", batch_size=None)
    plain = [load_embedder(place / name).fingerprint for name in ("photos.onnx", "model.keras")]
    assert plain[0] == plain[1]
    good, _ = literal(place)
    images = ImageList(good, [0] * len(good), ("all",), ["test"] * len(good))
    expected = embed_images(
        load_embedder(place / "model.keras"), images, image_size=16, resize_to=18, verbose=False
    )
    paths, rows = rows_of(tmp_path)
    assert paths == good
    # whole values of pixels may be rounded the other way
    np.testing.assert_allclose(rows, expected, atol=2e-3)
    with pytest.raises(ValueError, match="one by one.*batch_size=4. Leave it out"):
        embedded(place, tmp_path, model="photos.onnx", batch_size=4)


def test_the_folder_says_what_it_holds(place):
    folder = place / "rows"
    embedder = load_embedder(place / "model.keras")
    facts = {
        "model_fingerprint": embedder.fingerprint, "model": "model.keras", "dimension": 6,
    }  # fmt: skip
    schema = parquet.read_schema(folder / "part-000001.parquet")
    assert json.loads(schema.metadata[b"keras_ms"]) == facts
    assert str(schema.field("path").type) == "string"
    embedding = schema.field("embedding").type
    assert (embedding.list_size, str(embedding.value_type)) == (6, "float")
    about = json.loads((folder / "embeddings.json").read_text())
    assert len(about.pop("pictures_digest")) == 32
    assert about == facts | {
        "dtype": "float32", "shard_size": 5, "image_size": 16, "resize_to": 18,
        "apply_exif_orientation": True, "pictures": 14,
    }  # fmt: skip
    with open(folder / "broken.csv", newline="") as file:
        assert [(row["path"], row["reason"]) for row in csv.DictReader(file)] == [
            (str(place / "photos/c/2.jpg"), "the file is empty"),
            (str(place / "photos/c/5.png"), "not an image"),
        ]
    assert sorted(path.name for path in folder.iterdir()) == [
        "broken.csv", "embeddings.json", *(f"part-00000{n}.parquet" for n in range(3)),
    ]  # fmt: skip


def test_a_run_that_stopped_goes_on_to_the_same_bytes(place, tmp_path, monkeypatch):
    wanted, made = shards(place / "rows"), []

    def failing_write(self, name, contents, write=OutputFolder.write):
        if name == "part-000001.parquet" and not made:
            made.append(name)
            raise OSError(28, "No space left on device")
        write(self, name, contents)

    monkeypatch.setattr(OutputFolder, "write", failing_write)
    with pytest.raises(OSError):
        embedded(place, tmp_path / "rows")
    assert list(shards(tmp_path / "rows")) == ["part-000000.parquet"]
    assert not (tmp_path / "rows" / "broken.csv").exists()
    done = embedded(place, tmp_path / "rows")
    assert shards(tmp_path / "rows") == wanted
    assert (done.num_pictures, done.num_embeddings, done.num_made) == (14, 12, 9)
    assert [Path(path).name for path, _ in done.broken] == ["2.jpg", "5.png"]
    broken = (tmp_path / "rows" / "broken.csv").read_text()
    assert broken == (place / "rows" / "broken.csv").read_text()
    again = embedded(place, tmp_path / "rows")
    assert (again.num_made, again.broken) == (0, done.broken)


def test_shards_that_are_damaged_or_of_others_are_made_again(place, tmp_path, capsys):
    folder, wanted = tmp_path / "rows", shards(place / "rows")
    embedded(place, folder)
    whole = wanted["part-000000.parquet"]
    (folder / "part-000000.parquet").write_bytes(whole[:-9])
    (folder / "part-000001.parquet").write_bytes(whole)
    (folder / "part-000002.parquet").write_bytes(b"")
    done = embedded(place, folder, verbose=True)
    assert done.num_made == 14
    assert shards(folder) == wanted
    assert capsys.readouterr().out.count("made again") == 3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model": "other/model.keras"}, "model_fingerprint was"),
        ({"shard_size": 6}, "shard_size was 5 and is 6"),
        ({"dtype": "float16"}, "dtype was 'float32' and is 'float16'"),
        ({"resize_to": 20}, "resize_to was 18 and is 20"),
        ({"data": "photos/a"}, "pictures_digest was"),
    ],
)
def test_other_embeddings_in_the_folder_are_refused(place, change, words):
    before = shards(place / "rows")
    with pytest.raises(ValueError, match=f"{words}.*another folder.*--replace"):
        embedded(place, place / "rows", **change)
    assert shards(place / "rows") == before


def test_on_request_they_are_replaced_and_then_gone_on_with(place, tmp_path, capsys):
    folder = tmp_path / "rows"
    embedded(place, folder, shard_size=2)
    (folder / "mine.txt").write_text("stays")
    embedded(place, folder, replace=True)
    assert shards(folder) == shards(place / "rows")
    assert (folder / "mine.txt").read_text() == "stays"
    assert embedded(place, folder, replace=True).num_made == 0
    (folder / "embeddings.json").unlink()
    with pytest.raises(ValueError, match="damaged or gone"):
        embedded(place, folder)


def test_half_the_size_is_rounded_and_no_more(place, tmp_path):
    embedded(place, tmp_path / "rows", dtype="float16")
    field = parquet.read_schema(tmp_path / "rows" / "part-000000.parquet").field("embedding")
    assert str(field.type.value_type) == "halffloat"
    expected = rows_of(place / "rows")[1].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rows_of(tmp_path / "rows")[1], expected)


def test_urls_are_read_and_written(place, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in (place / "photos").rglob("*.*"):
        memory.pipe_file(f"/photos/{path.relative_to(place / 'photos')}", path.read_bytes())
    for to in ("memory://out/rows", f"file://{tmp_path}/rows"):
        done = embed_pictures(
            place / "model.keras", "memory://photos", to=to, shard_size=5, verbose=False
        )
        assert (done.num_embeddings, len(done.broken)) == (12, 2)
        assert embed_pictures(
            place / "model.keras", "memory://photos", to=to, shard_size=5, verbose=False
        ).num_made == 0  # fmt: skip
    assert sorted(name.rpartition("/")[2] for name in memory.find("/out/rows")) == sorted(
        path.name for path in (tmp_path / "rows").iterdir()
    )
    for name, contents in shards(tmp_path / "rows").items():
        assert memory.cat_file(f"/out/rows/{name}") == contents
    paths, rows = rows_of(tmp_path / "rows")
    assert paths[0] == "memory:///photos/a/0.jpg"
    np.testing.assert_allclose(rows, literal(place)[1], atol=1e-6, rtol=0)
    memory.store.clear()


def test_where_every_picture_is_broken_the_end_is_an_error(place, tmp_path):
    data = tmp_path / "list.csv"
    data.write_text("file\n" + "".join(f"{n}.jpg\n" for n in range(7)))
    with pytest.raises(ValueError, match="None of the 7 pictures.*0.jpg: No such file"):
        embedded(place, tmp_path / "rows", data=data, column="file")
    assert len((tmp_path / "rows" / "broken.csv").read_text().splitlines()) == 8
    assert rows_of(tmp_path / "rows")[0] == []


def test_pictures_that_were_missing_are_tried_again(place, tmp_path, capsys):
    # as on a disk that was not mounted
    names = [f"{n}.png" for n in range(7)]
    data = tmp_path / "list.csv"
    data.write_text("path\n" + "\n".join(names))
    (tmp_path / "6.png").write_text("no picture")
    with pytest.raises(ValueError, match="Given again, this tries those once more"):
        embedded(place, tmp_path / "rows", data=data)
    before = shards(tmp_path / "rows")
    with pytest.raises(ValueError, match="None of the 7"):
        embedded(place, tmp_path / "rows", data=data)
    assert shards(tmp_path / "rows") == before
    for name in names[:4]:
        Image.new("RGB", (20, 20), (40, 50, 60)).save(tmp_path / name)
    done = embedded(place, tmp_path / "rows", data=data, verbose=True)
    assert done.num_embeddings == 4 and done.num_made == 5
    assert (
        "part-000000.parquet is made again: pictures that were missing" in capsys.readouterr().out
    )
    after = shards(tmp_path / "rows")
    assert after["part-000001.parquet"] == before["part-000001.parquet"]
    # what is damaged and what is missing still, is no reason
    assert embedded(place, tmp_path / "rows", data=data).num_made == 0


def test_a_folder_of_links_to_shards_is_read(place, tmp_path):
    (tmp_path / "links").mkdir()
    for path in (place / "rows").iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert (
        OutputFolder(str(tmp_path / "links")).names() == OutputFolder(str(place / "rows")).names()
    )
    assert embedded(place, tmp_path / "links").num_made == 0


def test_a_picture_without_an_embedding_is_broken_and_a_model_without_any_refused(
    place, tmp_path, monkeypatch
):
    def with_nan(which):
        def embed(embedder, batches, **options):
            rows = np.concatenate([np.ones((len(batch), 6), np.float32) for batch in batches])
            rows[which] = np.nan
            return rows

        monkeypatch.setattr(shard_maker, "embed_views", embed)

    with_nan([1])
    done = embedded(place, tmp_path / "rows")
    assert [Path(path).name for path, _ in done.broken] == ["12.jpg", "10.jpg", "2.jpg", "5.png",
                                                            "8.jpg"]  # fmt: skip
    assert "NaN" in done.broken[0][1]
    with_nan(slice(None))
    with pytest.raises(ValueError, match="all of 5 pictures.*diverged"):
        embedded(place, tmp_path / "none")


def test_numbers_beyond_float16_are_refused(place, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shard_maker,
        "embed_views",
        lambda embedder, batches: np.concatenate([np.full((len(b), 6), 1e5) for b in batches]),
    )
    with pytest.raises(ValueError, match="take float32"):
        embedded(place, tmp_path / "rows", dtype="float16")


def test_arguments_that_would_not_be_read_are_refused(place, tmp_path):
    for options, words in (
        ({"dtype": "float64"}, "float64"),
        ({"engine": "spark"}, "spark"),
        ({"workers": 2}, "Leave it out"),
        ({"shard_size": 0}, "shard_size"),
        ({"column": "path"}, "Leave it out"),
        ({"image_size": 20}, "16 x 16"),
        ({"resize_to": 12}, "resize_to=12"),
    ):
        with pytest.raises(ValueError, match=words):
            embedded(place, tmp_path / "rows", **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        embedded(place, tmp_path / "file")
    assert not (tmp_path / "rows").exists()


def test_a_missing_package_is_named_with_the_command_before_the_work(place, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_ms.search.embedding_run.load_embedder", None)
    for module, extra, options in (
        ("ray", "ray", {"engine": "ray"}), ("pyarrow.parquet", "search", {}),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=rf"pip install -e \"\.\[{extra}\]"):
            embedded(place, tmp_path / "rows", **options)


def test_a_model_of_any_size_needs_one(place, tmp_path):
    small_model(size=None).save(place / "open.keras")
    with pytest.raises(ValueError, match="image_size"):
        embedded(place, tmp_path / "rows", model="open.keras")
    embedded(place, tmp_path / "rows", model="open.keras", image_size=16)
    np.testing.assert_array_equal(rows_of(tmp_path / "rows")[1], rows_of(place / "rows")[1])


def test_a_model_of_a_fixed_batch_takes_its_own(place, tmp_path):
    image = keras.Input((16, 16, 3), batch_size=4)
    keras.Model(image, keras.layers.GlobalAveragePooling2D()(image)).save(place / "fixed.keras")
    with pytest.raises(ValueError, match="batches of 4"):
        embedded(place, tmp_path / "rows", model="fixed.keras")
    done = embedded(place, tmp_path / "rows", model="fixed.keras", batch_size=None)
    assert done.num_embeddings == len(rows_of(tmp_path / "rows")[1]) == 12
