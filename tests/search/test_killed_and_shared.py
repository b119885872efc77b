"""Killed at any moment, or shared by workers of Ray, a job leaves the same bytes."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from small_exports import small_embedder

pytest.importorskip("fsspec", reason='needs pip install -e ".[search]"')
pytest.importorskip("pyarrow", reason='needs pip install -e ".[search]"')

from keras_ms.search import embed_pictures  # noqa: E402


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """300 pictures, two of them broken, and rows of a run that nothing disturbed."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 24, 30, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(place / "photos" / f"{number:03}.png")
    for number in (1, 200):
        (place / "photos" / f"{number:03}.png").write_bytes(b"broken")
    small_embedder().save(place / "model.keras")
    embedded(place, place / "rows", model=place / "model.keras")
    return place


def embedded(place, to, *, model="model.keras", **options):
    options |= {"shard_size": 2, "verbose": False}
    return embed_pictures(model, place / "photos", to=to, **options)


@pytest.mark.slow
def test_killed_five_times_it_leaves_the_same_bytes(place, tmp_path):
    moments, folder = random.Random(0), tmp_path / "rows"
    words = [place / "model.keras", place / "photos", "--to", folder, "--shard-size", "2"]
    command = [sys.executable, "-m", "keras_ms.cli", "embed", *map(str, words)]
    for kill in range(5):
        wanted = 20 * (kill + 1)  # the last kill comes with fifty shards to go
        with open(tmp_path / "output.txt", "w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        while len(list(folder.glob("part-*.parquet"))) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
        assert not (folder / "broken.csv").exists()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 150 shards are there" in done.stdout
    assert contents(folder) == contents(place / "rows")


@pytest.mark.slow
def test_two_workers_of_ray_leave_the_same_bytes(place, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason='needs pip install -e ".[ray]"')
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("embeddings.json", "part-000000.parquet", "part-000007.parquet"):
        (folder / name).write_bytes((place / "rows" / name).read_bytes())
    monkeypatch.chdir(place)
    with pytest.raises(ValueError, match="workers=1000"):
        embedded(place, folder, engine="ray", workers=1000)
    done = embedded(place, folder, engine="ray", workers=2)
    assert (done.num_made, done.num_embeddings, len(done.broken)) == (296, 298, 2)
    assert contents(folder) == contents(place / "rows")
