import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ms.pairs.labels import label_keys
from keras_ms.pairs.pairs import pair_masks
from keras_ms.pairs.reductions import log_one_plus_sum_exp, masked_max, masked_min
from keras_ms.pairs.unit_vectors import cast_for_loss, normalised_rows


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_normalised_rows_at_any_scale(scale):
    rows = np.array([[3.0, 4.0], [-1.0, 0.0]], np.float32) * np.float32(scale)
    np.testing.assert_allclose(normalised_rows(rows), [[0.6, 0.8], [-1.0, 0.0]], rtol=1e-6)


def test_normalised_rows_of_zero_is_zero_with_a_finite_gradient():
    rows = tf.constant([[0.0, 0.0], [1.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        unit = normalised_rows(rows)
        total = tf.reduce_sum(unit * [[1.0, 2.0], [1.0, 2.0]])
    assert unit.numpy()[0].tolist() == [0.0, 0.0]
    gradient = tape.gradient(total, rows).numpy()
    assert np.isfinite(gradient).all()
    # d/dx of x/|x| . c is (c - (c.u)u)/|x|, with u = (1, 1)/sqrt 2 and c = (1, 2)
    np.testing.assert_allclose(gradient[1], np.array([-0.5, 0.5]) / np.sqrt(2), rtol=1e-5)


def test_normalised_rows_gradient_of_rescaled_rows_equals_the_derivative():
    rng = np.random.default_rng(0)
    rows, upstream = rng.normal(size=(2, 5, 7))
    variable = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        total = tf.reduce_sum(normalised_rows(variable) * upstream)
    gradient = tape.gradient(total, variable).numpy()

    def value(moved):
        return np.sum(moved / np.linalg.norm(moved, axis=1, keepdims=True) * upstream)

    step = 1e-6
    for i, j in [(0, 0), (2, 5), (4, 6)]:
        nudge = np.zeros_like(rows)
        nudge[i, j] = step
        slope = (value(rows + nudge) - value(rows - nudge)) / (2 * step)
        assert gradient[i, j] == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_normalised_rows_keep_nan_visible(bad):
    unit = normalised_rows(np.array([[bad, 1.0], [1.0, 0.0]], np.float32)).numpy()
    assert np.isnan(unit[0]).any()
    assert unit[1].tolist() == [1.0, 0.0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
@settings(max_examples=40, deadline=None)
def test_pair_masks_are_the_definition(labels, data):
    valid = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    positive, negative = pair_masks(label_keys(np.array(labels), mask=np.array(valid)))
    for i in range(len(labels)):
        for j in range(len(labels)):
            both = valid[i] and valid[j]
            assert positive[i, j] == (both and i != j and labels[i] == labels[j])
            assert negative[i, j] == (both and labels[i] != labels[j])


def test_labels_are_equal_iff_all_parts_of_their_keys_are():
    labels = np.array([[1, 2], [1, 3], [1, 2], [2, 2]]) @ [2**48, 1]
    positive, negative = pair_masks(label_keys(labels))
    assert np.argwhere(positive.numpy()).tolist() == [[0, 2], [2, 0]]
    assert negative.numpy().sum() == 16 - 4 - 2


def test_masked_extremes_and_their_empty_rows():
    values = np.array([[1.0, -5.0, 3.0], [1.0, 2.0, 3.0]], np.float32)
    mask = np.array([[True, True, False], [False, False, False]])
    assert masked_max(values, mask, -9.0).numpy().tolist() == [[1.0], [-9.0]]
    assert masked_min(values, mask, 9.0).numpy().tolist() == [[-5.0], [9.0]]


@pytest.mark.parametrize("bound", [np.inf, 60.0])
def test_log_one_plus_sum_exp(bound):
    rng = np.random.default_rng(0)
    exponents = rng.normal(size=(6, 9)) * 5
    mask = rng.random((6, 9)) < 0.5
    mask[3] = False
    expected = [[np.log1p(np.exp(row[keep]).sum())] for row, keep in zip(exponents, mask)]
    logarithm = log_one_plus_sum_exp(exponents, mask, bound).numpy()
    np.testing.assert_allclose(logarithm, expected, rtol=1e-12)
    assert logarithm[3, 0] == 0


@pytest.mark.parametrize("bound", [np.inf, 60.0])
def test_log_one_plus_sum_exp_of_the_largest_and_smallest_within_the_bound(bound):
    exponents = np.concatenate([np.full((1, 4000), 60.0), np.full((1, 4000), -60.0)])
    exponents = exponents.astype(np.float32)
    mask = np.ones_like(exponents, bool)
    logarithm = log_one_plus_sum_exp(exponents, mask, bound)
    np.testing.assert_allclose(logarithm, [[60 + np.log(4000)], [4000 * np.exp(-60)]], rtol=1e-6)


def test_log_one_plus_sum_exp_ignores_masked_giants_and_survives_mined_ones():
    exponents = np.array([[1e30, -3.0], [500.0, 500.0], [-500.0, 1e30]], np.float32)
    mask = np.array([[False, True], [True, True], [True, False]])
    expected = [[np.log1p(np.exp(-3.0))], [500 + np.log(2)], [0.0]]
    np.testing.assert_allclose(log_one_plus_sum_exp(exponents, mask), expected, rtol=1e-6)


def gradient_through_cast(rows, upstream):
    rows = tf.constant(rows, tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        value = tf.reduce_sum(cast_for_loss(rows, "float32") * upstream)
    return tape.gradient(value, rows).numpy().astype(np.float32)


def test_a_short_float16_row_gets_the_longest_gradient_that_fits():
    upstream = np.array([[1e6, -5e5], [3.0, 4.0]], np.float32)
    found = gradient_through_cast([[1e-5, 0], [1e-5, 0]], upstream)
    np.testing.assert_allclose(found, [[65504, -32752], [3, 4]], rtol=1e-3)


def test_the_overflow_of_a_row_that_is_not_short_is_left_to_a_loss_scaler():
    found = gradient_through_cast([[1, 0]], np.array([[1e6, 1]], np.float32))
    np.testing.assert_array_equal(found, [[np.inf, 1]])
