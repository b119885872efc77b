"""Where the head of a run begins, by its settings."""

from types import SimpleNamespace

import numpy as np
import pytest

from keras_ms import NPairLoss
from keras_ms.models.embedding import build_embedder
from keras_ms.run.folder import RunFolder
from keras_ms.run.head_start import start_head, start_squared_norm
from keras_ms.run.model import RunModels, build_models, run_loss
from keras_ms.run.settings import Settings


def models_of(**given):
    return RunModels(**{**dict.fromkeys(RunModels._fields), **given})


@pytest.mark.parametrize(
    "loss, expected", [("n_pair", 10.0), ("multi_similarity", None), ("triplet", None)]
)
@pytest.mark.parametrize(
    "words, is_asked_for",
    [
        ({"weights": "imagenet"}, True),
        ({"weights": "imagenet", "freeze_backbone": True}, False),
        ({"weights": ""}, False),
    ],
)
def test_only_losses_of_any_length_of_a_pretrained_network_ask_for_a_norm(
    loss, expected, words, is_asked_for
):
    settings = Settings.from_values(
        dataset="folder", data_dir="photos", backbone="mobilenet_v2", loss=loss, **words
    )
    models = models_of(loss=run_loss(settings))
    assert start_squared_norm(settings, models) == (expected if is_asked_for else None)


@pytest.mark.parametrize(
    "loss, expected", [("n_pair", 10.0), ("multi_similarity", None), ("triplet", 10.0)]
)
def test_hdml_asks_for_it_by_its_own_loss_which_for_triplets_is_of_embeddings_as_they_are(
    loss, expected
):
    settings = Settings.from_values(
        dataset="folder", data_dir="photos", backbone="mobilenet_v2", weights="imagenet",
        loss=loss, hdml="paper", **({"images_per_class": 2} if loss == "n_pair" else {}),
    )  # fmt: skip
    small = Settings.from_values(
        dataset="glyphs", backbone="small", image_size=32, embedding_size=8,
        loss=loss, hdml="paper", **({"images_per_class": 2} if loss == "n_pair" else {}),
    )  # fmt: skip
    models = build_models(small, np.arange(4), loss=run_loss(small))
    assert start_squared_norm(settings, models) == expected


@pytest.mark.parametrize("start", ["orthogonal", "pca"])
def test_a_run_begins_with_that_norm(start, tmp_path):
    embedder = build_embedder("small", image_size=32, embedding_size=6, seed=0)
    kernel = np.asarray(embedder.get_layer("embedding").kernel)
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(24, 128)).astype("float32") + 3, np.arange(24) % 4
    settings = Settings.from_values(
        dataset="folder", data_dir="photos", backbone="mobilenet_v2", weights="imagenet",
        loss="n_pair", head_initializer=start,
    )  # fmt: skip
    images = SimpleNamespace(subset=lambda split: SimpleNamespace(labels=labels))
    data = SimpleNamespace(images=images, features=SimpleNamespace(of_split=lambda split: features))
    models = models_of(embedder=embedder, random_kernel=kernel, loss=NPairLoss())
    for _ in range(2):  # and again, as a run that is interrupted begins anew
        start_head(RunFolder(tmp_path), settings, models=models, data=data, log=print)
        now, bias = embedder.get_layer("embedding").get_weights()
        assert np.mean(np.sum((features @ now + bias) ** 2, 1)) == pytest.approx(10, rel=1e-4)
    if start == "orthogonal":
        np.testing.assert_allclose(now, kernel * (now[0, 0] / kernel[0, 0]), rtol=1e-4)
