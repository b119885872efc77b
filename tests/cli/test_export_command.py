"""keras-ms export: files whose embeddings are averaged over views of a picture."""

import json
from dataclasses import replace

import numpy as np
import pytest

import keras_ms
from keras_ms.cli.main import main
from keras_ms.export.embedder import load_embedder
from keras_ms.export.keras_file import write_keras_file
from keras_ms.export.runner import load_runner
from keras_ms.models.view_words import parsed_views
from keras_ms.run.folder import RunFolder
from keras_ms.run.settings import Settings
from keras_ms.run.views import shorter_side


@pytest.mark.parametrize(
    "text, views",
    [
        ("", {}),
        ("mirror", {"mirror": True}),
        ("mirror, zoom", {"mirror": True, "zoom": 0.1}),
        ("zoom=0.05,rotation=3", {"zoom": 0.05, "rotation": 3.0}),
    ],
)
def test_views_in_words(text, views):
    assert parsed_views(text) == views


@pytest.mark.parametrize(
    "text",
    [
        "mirrored",
        "mirror=1",
        "zoom=much",
        "zoom 0.1",
        "zoom=5",
        "zoom=0",
        "rotation=nan",
        ",",
        " ",
        "zoom=0.1,zoom=0.2",
        "mirror,mirror",
    ],
)
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match=f"mirror, zoom.*Received: {text}"):
        parsed_views(text)


def test_exported_files_average_their_views(tmp_path):
    embedder = keras_ms.build_embedder("small", image_size=16, embedding_size=5)
    write_keras_file(embedder, tmp_path / "embedder.keras")
    words = ["export", str(tmp_path / "embedder.keras"), "--formats", "saved_model"]
    main([*words, "--to", str(tmp_path / "plain")])
    main([*words, "--to", str(tmp_path / "views"), "--views", "mirror,zoom"])
    plain, views = (load_runner(tmp_path / name / "saved_model") for name in ("plain", "views"))
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    averaged = keras_ms.average_views(embedder, mirror=True, zoom=0.1)
    np.testing.assert_allclose(views.run(images), averaged(images), atol=1e-5)
    assert np.abs(views.run(images) - plain.run(images)).max() > 1e-3
    assert views.facts["model_fingerprint"] != plain.facts["model_fingerprint"]
    assert "mirror,zoom" in json.dumps(dict(views.facts))


def recorded(*words, to):
    main(["export", *map(str, words), "--formats", "saved_model", "--to", str(to)])
    return load_embedder(to / "saved_model").preprocessing


def test_what_is_known_of_photos_is_recorded(tmp_path):
    embedder = keras_ms.build_embedder("small", image_size=16, embedding_size=5)
    file = tmp_path / "embedder.keras"
    write_keras_file(embedder, file)
    stored = recorded(file, "--no-apply-exif-orientation", to=tmp_path / "a")
    assert stored.exif_orientation is False and stored.resize_to is None
    assert recorded(file, "--resize-to", 18, to=tmp_path / "b").exif_orientation is True
    # of a run: what its settings say, but for what is given
    run = RunFolder(tmp_path / "run")
    settings = Settings.from_values(
        dataset="omniglot", data_dir=str(tmp_path), image_size=16, framed_drawings=True,
    )  # fmt: skip
    with run.claim():
        run.create(settings)
    write_keras_file(embedder, run.model_file)
    whole = recorded(run.path, to=tmp_path / "c")
    # drawings are seen whole
    assert whole.resize_to == 16 and "ink" in whole.before_resizing
    other = recorded(run.path, "--resize-to", 20, to=tmp_path / "d")
    assert other == replace(whole, resize_to=20)


def test_the_drawn_set_of_a_run_without_a_folder_is_seen_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dataset in ("auto", "glyphs"):
        assert shorter_side(Settings.from_values(dataset=dataset, image_size=64)) == 64
