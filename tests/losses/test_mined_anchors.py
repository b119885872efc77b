import keras
import numpy as np
import oracles
import pytest

from keras_ms.losses import mined_anchors
from keras_ms.losses.mined_anchors import MinedAnchors
from keras_ms.losses.multi_similarity import MultiSimilarityLoss


def expected_share(batches, epsilon=0.1):
    counted = total = 0
    for labels, embeddings in batches:
        kept = oracles.mine(oracles.similarities(embeddings), labels, epsilon)
        counted += sum(bool(p or n) for p, n in zip(*kept, strict=True))
        total += len(labels)
    return counted / total


def batch(seed, size, classes=6, spread=0.4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    centres = rng.normal(size=(classes, 8))
    embeddings = centres[labels] + spread * rng.normal(size=(size, 8))
    return labels + 2**40, embeddings.astype(np.float32)


@pytest.mark.parametrize("epsilon", [0.1, 0.4, None])
def test_share_over_batches(epsilon):
    batches = [batch(0, 24), batch(1, 10)]
    metric = MinedAnchors(epsilon)
    assert float(metric.result()) == 0
    for labels, embeddings in batches:
        metric.update_state(labels, embeddings)
    share = expected_share(batches, epsilon)
    assert 0 < share
    assert float(metric.result()) == pytest.approx(share)
    metric.reset_state()
    assert float(metric.result()) == 0


def test_a_batch_of_no_image_counts_nothing():
    metric = MinedAnchors()
    metric.update_state(np.zeros(0, int), np.zeros((0, 3), "float32"))
    assert float(metric.result()) == 0


def test_masked_items_are_not_counted():
    metric = MinedAnchors()
    embeddings = keras.ops.convert_to_tensor(np.ones((5, 3), np.float32))
    embeddings._keras_mask = keras.ops.convert_to_tensor([True, True, True, False, False])
    metric.update_state(np.array([0, 0, 1, 1, 0]), embeddings)
    assert float(metric.result()) == pytest.approx(2 / 3)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_logged_by_fit_for_training_and_validation(jit_compile):
    labels, inputs = batch(2, 40)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Identity()])
    metrics = [MinedAnchors()]
    model.compile("sgd", MultiSimilarityLoss(), metrics=metrics, jit_compile=jit_compile)
    seen, held_out = (inputs, labels), batch(3, 15)[::-1]
    history = model.fit(
        *seen, batch_size=20, validation_data=held_out, shuffle=False, verbose=0
    ).history
    training = [(labels[:20], inputs[:20]), (labels[20:], inputs[20:])]
    assert history["mined_anchors"][0] == pytest.approx(expected_share(training), abs=1e-6)
    assert history["val_mined_anchors"][0] == pytest.approx(
        expected_share([batch(3, 15)]), abs=1e-6
    )


def test_config_round_trip():
    metric = keras.metrics.deserialize(keras.metrics.serialize(MinedAnchors(0.3, name="share")))
    assert isinstance(metric, MinedAnchors)
    assert (metric.epsilon, metric.name) == (0.3, "share")


def test_labels_must_be_ids():
    with pytest.raises(ValueError, match="Expected integer class ids"):
        MinedAnchors().update_state(np.zeros(3), np.ones((3, 2)))


def test_a_large_batch_is_taken_in_blocks(monkeypatch):
    """Of 7 anchors at a time; the share is that of all at once."""
    labels, embeddings = batch(4, 40)
    expected = MinedAnchors()
    expected.update_state(labels, embeddings)
    monkeypatch.setattr(mined_anchors, "BLOCKS_FROM", 40)
    monkeypatch.setattr(mined_anchors, "BLOCK", 7)
    metric = MinedAnchors()
    metric.update_state(labels, embeddings)
    assert float(metric.result()) == float(expected.result()) != 0


@pytest.mark.parametrize("epsilon", [-0.1, np.nan])
def test_an_epsilon_below_0_is_refused(epsilon):
    with pytest.raises(ValueError, match="`epsilon` >= 0"):
        MinedAnchors(epsilon=epsilon)
