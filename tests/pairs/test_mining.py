import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.mining import mine_all, mine_multi_similarity
from keras_ms.pairs.pairs import Pairs, pair_masks


def batch(seed, size, classes):
    rng = np.random.default_rng(seed)
    similarity = oracles.similarities(rng.normal(size=(size, 3)))
    return similarity, rng.integers(classes, size=size)


def mined(similarity, labels, epsilon):
    kept = mine_multi_similarity(
        Pairs(similarity, *pair_masks(label_keys(labels))), epsilon=epsilon
    )
    return kept.positive.numpy(), kept.negative.numpy()


batches = given(st.integers(0, 10**6), st.integers(2, 24), st.integers(1, 6))


@batches
@settings(max_examples=60, deadline=None)
def test_mining_is_eqs_11_and_12(seed, size, classes):
    similarity, labels = batch(seed, size, classes)
    positive, negative = mined(similarity, labels, 0.1)
    kept_positives, kept_negatives = oracles.mine(similarity, labels, 0.1)
    for i in range(size):
        assert np.flatnonzero(positive[i]).tolist() == kept_positives[i]
        assert np.flatnonzero(negative[i]).tolist() == kept_negatives[i]


@batches
@settings(max_examples=60, deadline=None)
def test_kept_sets_are_empty_together_and_hold_the_hardest(seed, size, classes):
    similarity, labels = batch(seed, size, classes)
    all_positive, all_negative = (mask.numpy() for mask in pair_masks(label_keys(labels)))
    positive, negative = mined(similarity, labels, 0.1)
    for i in range(size):
        if not (all_positive[i].any() and all_negative[i].any()):
            assert not positive[i].any() and not negative[i].any()
            continue
        least_positive = np.where(all_positive[i], similarity[i], 9).argmin()
        most_negative = np.where(all_negative[i], similarity[i], -9).argmax()
        keeps = similarity[i, most_negative] + 0.1 > similarity[i, least_positive]
        assert positive[i].any() == negative[i].any() == keeps
        assert positive[i, least_positive] == negative[i, most_negative] == keeps


def test_the_margin_decides():
    # anchor 0: positive at 0.7, negatives at 0.65 and 0.5
    similarity = np.array([[1.0, 0.7, 0.65, 0.5]])
    pairs = Pairs(similarity, similarity == 0.7, (similarity == 0.65) | (similarity == 0.5))
    for epsilon, positives, negatives in [(0.01, 0, 0), (0.1, 1, 1), (0.3, 1, 2)]:
        kept = mine_multi_similarity(pairs, epsilon=epsilon)
        assert (kept.positive.numpy().sum(), kept.negative.numpy().sum()) == (positives, negatives)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0]])
def test_anchors_without_an_opposite_keep_nothing(labels):
    similarity = oracles.similarities(np.ones((len(labels), 2)))
    positive, negative = mined(similarity, np.array(labels), 0.1)
    assert not positive.any() and not negative.any()


def test_mine_all_keeps_every_pair():
    pairs = Pairs(np.eye(2), *pair_masks(label_keys(np.array([0, 1]))))
    assert mine_all(pairs) is pairs
