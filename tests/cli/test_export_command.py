"""keras-ms export: files whose embeddings are averaged over views of a picture."""

import json

import numpy as np
import pytest

import keras_ms
from keras_ms.cli.main import main
from keras_ms.export.keras_file import write_keras_file
from keras_ms.export.runner import load_runner
from keras_ms.models.view_words import parsed_views


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
