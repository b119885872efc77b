"""ExplainZeroLoss: which losses are explained, once and by their name."""

import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_fits import IMAGES, LABELS, embedder, fit

from keras_ms.callbacks import ExplainZeroLoss
from keras_ms.losses.multi_similarity import MultiSimilarityLoss


@pytest.mark.parametrize("logs", [{"loss": 0.0}, {"loss": 0.01, "mined_anchors": 0.0}])
def test_a_loss_of_zero_is_explained_once(logs):
    callback = ExplainZeroLoss()
    with pytest.warns(UserWarning, match="balanced_batches") as caught:
        callback.on_epoch_end(0, {"loss": 0.3, "mined_anchors": 0.5})
        callback.on_epoch_end(1, logs)
        callback.on_epoch_end(2, logs)
    assert len(caught) == 1
    assert "epoch 2" in str(caught[0].message)


@pytest.mark.parametrize(
    "name", ["val_loss", "val_mined_anchors", "val_birds_loss", "birds_loss", "birds_mined_anchors"]
)
def test_a_zero_under_any_name_is_explained(name):
    callback = ExplainZeroLoss()
    callback.set_model(types.SimpleNamespace(output_names=["birds", "cats"]))
    with pytest.warns(UserWarning, match=rf"In epoch 1 .*\({name} = 0\)") as caught:
        callback.on_epoch_end(0, {"loss": 0.3, "val_mined_anchors": 0.5, name: 0.0})
        callback.on_epoch_end(1, {"loss": 0.3, name: 0.0})
    assert len(caught) == 1
    is_validation = name.startswith("val_")
    assert ("validation_batches" in str(caught[0].message)) == is_validation
    assert ("nothing was learned" in str(caught[0].message)) != is_validation


def test_what_else_is_logged_may_be_zero():
    callback = ExplainZeroLoss()
    callback.set_model(types.SimpleNamespace(output_names=["birds"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_epoch_end(0, {"loss": 0.3, "kl_loss": 0.0, "val_loss": 0.2, "aux_loss": 0.0})


def class_by_class():
    order = np.argsort(LABELS, kind="stable")
    return tf.data.Dataset.from_tensor_slices((IMAGES[order], LABELS[order])).batch(10)


def test_validation_and_evaluation_on_batches_of_one_class_are_explained():
    model, explain = embedder(), ExplainZeroLoss()
    model.compile("sgd", MultiSimilarityLoss(), run_eagerly=True)
    with pytest.warns(UserWarning) as caught:
        history = fit(model, [explain], epochs=2, validation_data=class_by_class())
    said = [str(w.message) for w in caught if "exactly 0" in str(w.message)]
    assert history["val_loss"] == [0.0, 0.0] and len(said) == 1
    assert "In epoch 1" in said[0] and "images class by class" in said[0]
    with pytest.warns(UserWarning, match="In evaluate the loss was exactly 0"):
        model.evaluate(class_by_class(), callbacks=[ExplainZeroLoss()], verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.evaluate(IMAGES, LABELS, callbacks=[ExplainZeroLoss()], verbose=0)


def test_a_loss_that_is_not_finite_is_explained_by_the_weights_or_the_images():
    model = embedder(optimizer=keras.optimizers.SGD(float("nan")))
    with pytest.warns(UserWarning, match="was nan .*2 of 2 trained variables.*learning rate"):
        fit(model, [ExplainZeroLoss()], epochs=2)
    model, images = embedder(optimizer=keras.optimizers.SGD(0.0)), IMAGES.copy()
    images[3, 3] = np.nan
    with pytest.warns(UserWarning, match="In evaluate the loss was nan.*NaN in the images"):
        model.evaluate(images, LABELS, callbacks=[ExplainZeroLoss()], verbose=0)


def test_a_loss_above_zero_needs_no_explanation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExplainZeroLoss().on_epoch_end(0, {"loss": 1e-9, "mined_anchors": 0.01})
        ExplainZeroLoss().on_epoch_end(0, None)
