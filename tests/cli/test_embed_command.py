"""keras-ms embed: what it prints and refuses, and how it ends."""

import signal
import tarfile
from typing import get_args

import keras
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fsspec", reason='needs pip install -e ".[search]"')
pytest.importorskip("pyarrow", reason='needs pip install -e ".[search]"')

from pyarrow import parquet  # noqa: E402

import keras_ms.search  # noqa: E402
from keras_ms.cli import embed  # noqa: E402
from keras_ms.cli.main import main  # noqa: E402
from keras_ms.search import embedding_run, shards  # noqa: E402
from keras_ms.terminal.streams import Terminated  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Five pictures, one of them broken, and a model of any size."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    for number in range(4):
        pixels = np.full((20, 30, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(place / "photos" / f"{number}.png")
    (place / "photos" / "x.png").write_bytes(b"")
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.GlobalMaxPooling2D()(image)).save(place / "model.keras")
    return place


def embedded(place, *words, to="rows"):
    words = (place / "model.keras", place / "photos", "--to", place / to, *words)
    return main(["embed", *map(str, words)])


def test_a_pattern_of_tars_at_any_depth(place, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for number, folder in enumerate(("a", "a/b")):
        with tarfile.open(tmp_path / folder / f"{number}.tar", "w") as archive:
            archive.add(place / "photos" / f"{number}.png", f"{number}.png")
    words = [place / "model.keras", f"{tmp_path}/**/*.tar", "--image-size", 8]
    assert main(["embed", *map(str, words), "--to", str(tmp_path / "rows")]) == 0
    table = parquet.read_table(sorted((tmp_path / "rows").glob("part-*.parquet")))
    assert len(table) == 2


def test_it_says_what_it_found_wrote_and_left_out(place, capsys):
    assert embedded(place, "--image-size", 8, "--shard-size", 2, to="told") == 0
    printed = capsys.readouterr().out
    assert f"{place}/photos: 5 of 5 files used" in printed
    assert f"Wrote {place}/told: 4 embeddings in 3 files, 5 pictures now at " in printed
    assert "Not embedded: 1 of 5 pictures, which broken.csv lists. The first is" in printed
    assert "x.png: the file is empty" in printed
    assert embedded(place, "--image-size", 8, "--shard-size", 2, to="told") == 0
    printed = capsys.readouterr().out
    assert "3 of 3 shards are there\n" in printed
    assert "now at" not in printed


def test_errors_end_with_1_and_say_what_to_do(place, capsys):
    for words, text in (
        ((), "image_size"),
        (("--image-size", 8, "--resize-to", 7), "resize_to=7"),
        (("--image-size", 8, "--column", "path"), "--column is of a .csv"),
        (("--image-size", 0), "--image-size of at least 1"),
        (("--workers", 2), "--engine ray"),
    ):
        assert embedded(place, *words, to="refused") == 1
        assert text in capsys.readouterr().err
    assert not (place / "refused").exists()
    words = [place / "model.keras", place / "gone", "--to", place / "refused"]
    assert main(["embed", *map(str, words)]) == 1
    assert "Nothing is at" in capsys.readouterr().err


def test_where_no_picture_is_read_the_code_is_1(place, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("path\ngone.png\n")
    words = (place / "model.keras", tmp_path / "list.csv", "--to", tmp_path / "rows")
    assert main(["embed", *map(str, words), "--image-size", "8"]) == 1
    assert "None of the 1 pictures" in capsys.readouterr().err
    assert "gone.png" in (tmp_path / "rows" / "broken.csv").read_text()


@pytest.mark.parametrize(
    "signalled, code", [(KeyboardInterrupt(), 130), (Terminated(signal.SIGTERM), 143)]
)
def test_interrupted_it_says_how_to_go_on(place, tmp_path, monkeypatch, capsys, signalled, code):
    def interrupted(self, number, progress=None):
        if number == 1:
            raise signalled
        return made(self, number, progress)

    made = embedding_run.ShardMaker.make
    monkeypatch.setattr(embedding_run.ShardMaker, "make", interrupted)
    words = ("--image-size", 8, "--shard-size", 2, "--dtype", "float16")
    assert embedded(place, *words, to=tmp_path / "rows") == code
    assert "Interrupted. The same command goes on where it ended" in capsys.readouterr().err
    monkeypatch.undo()
    assert embedded(place, *words, to=tmp_path / "rows") == 0
    printed = capsys.readouterr().out
    assert "1 of 3 shards are there; 3 pictures are left" in printed
    table = parquet.read_table(sorted((tmp_path / "rows").glob("part-*.parquet")))
    assert np.array(table["embedding"].to_pylist())[:, 0].tolist() == [0, 60, 120, 180]


def test_the_choices_are_those_of_the_library():
    hints = embed._Options.__annotations__
    assert get_args(get_args(hints["dtype"])[0]) == shards.DTYPES
    assert get_args(get_args(hints["engine"])[0]) == embedding_run.ENGINES
    assert embed.SHARD_SIZE == keras_ms.search.embedding_run.SHARD_SIZE
