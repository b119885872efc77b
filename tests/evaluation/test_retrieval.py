import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from difficult_embeddings import DIFFICULT, difficult, noisy_product
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from oracles_retrieval import ranks_oracle, recall_at_k_oracle, unit_rows

from keras_ms.evaluation import (
    device_counts,
    device_ranks,
    exact_similarity,
    inputs,
    processor_ranks,
)
from keras_ms.evaluation import ranks as ranks_module
from keras_ms.evaluation.ranks import best_positive_ranks
from keras_ms.evaluation.retrieval import recall_at_k

KS = (1, 2, 4, 8, 16)


def clustered(num_rows, num_classes, dimension=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_rows)
    centres = rng.standard_normal((num_classes, dimension))
    embeddings = 0.5 * centres[labels] + rng.standard_normal((num_rows, dimension))
    return embeddings.astype(np.float32), labels


@pytest.fixture(params=["processor", "accelerator"])
def computed_by(request, monkeypatch):
    """Both ways to compute ranks; the accelerator's compiled tiles run on a processor too."""
    monkeypatch.setattr(ranks_module, "on_accelerator", lambda: request.param == "accelerator")
    return request.param


# few classes: they straddle blocks; many: most are singletons; one: no negatives at all
@pytest.mark.parametrize("num_classes", [1, 2, 7, 60, 400])
@pytest.mark.parametrize("block_size", [64, 100, 2048])
@pytest.mark.parametrize("duplicates", [0, 80])
def test_equals_the_oracle(num_classes, block_size, duplicates, computed_by):
    embeddings, labels = clustered(301, num_classes, seed=num_classes + duplicates)
    # copies keep their own labels: some become exact ties with another class
    embeddings[:duplicates] = embeddings[duplicates : 2 * duplicates]
    recalls = recall_at_k(embeddings, labels, KS, block_size=block_size)
    expected, skipped = recall_at_k_oracle(embeddings, labels, KS)
    assert recalls == expected
    assert (recalls.num_queries, recalls.num_skipped) == (301, skipped)
    assert all(type(value) is float for value in recalls.values())


@pytest.mark.parametrize("num_classes", [1, 7, 60, 400])
@pytest.mark.parametrize("block_size", [64, 2048])
def test_gallery_equals_the_oracle(num_classes, block_size, computed_by):
    embeddings, labels = clustered(400, num_classes, seed=5)
    embeddings[:60] = embeddings[200:260]
    parts = embeddings[:130], labels[:130], KS, embeddings[130:], labels[130:]
    recalls = recall_at_k(*parts, block_size=block_size)
    expected, skipped = recall_at_k_oracle(*parts)
    assert recalls == expected
    assert (recalls.num_queries, recalls.num_skipped) == (130, skipped)


def test_several_full_tiles_equal_the_oracle(computed_by):
    embeddings, labels = clustered(1500, 300, dimension=64, seed=3)
    recalls = recall_at_k(embeddings, labels, (1, 10, 100, 1000), block_size=512)
    assert recalls == recall_at_k_oracle(embeddings, labels, (1, 10, 100, 1000))[0]


def test_ranks_by_hand():
    angles = np.radians([0, 10, 20, 30, 180, 90])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = [3, 5, 3, 5, 3, 9]
    # row 0 finds 20° behind 10°; row 4, at 180°, finds 20° behind 90° and 30°; row 5 is alone
    assert best_positive_ranks(embeddings, labels).tolist() == [2, 3, 3, 2, 3, 0]


@pytest.mark.parametrize("dimension", [8, 64, 512, 513, 1000, 1279])
def test_collapsed_embeddings_score_nothing(dimension, computed_by):
    for num_rows in (50, 777):
        labels = np.arange(num_rows) % 10
        row = np.random.default_rng(num_rows).standard_normal(dimension)
        for collapsed in (np.ones((num_rows, dimension)), np.tile(row, (num_rows, 1))):
            for extra in ({}, {"block_size": 500}):
                assert recall_at_k(collapsed, labels, (1,), **extra) == {1: 0.0}
            assert recall_at_k(collapsed, labels, (1,), collapsed, labels) == {1: 0.0}


@pytest.mark.parametrize("dimension", [512, 1279])
def test_collapsed_embeddings_score_nothing_in_several_tiles(dimension, computed_by):
    labels = np.arange(3000) % 10
    collapsed = np.tile(np.random.default_rng(0).standard_normal(dimension), (3000, 1))
    assert recall_at_k(collapsed, labels, (1,)) == {1: 0.0}


@pytest.mark.parametrize("kind", DIFFICULT)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_ranks_are_the_same_for_any_rounding_of_float32(kind, seed):
    embeddings, labels = difficult(kind, seed)
    expected = ranks_oracle(embeddings, labels).tolist()
    rng = np.random.default_rng(seed)

    def noisy(a, b, out):
        out[:] = noisy_product(a, b, rng)

    def noisy_tile(a, b, a_labels, b_labels):
        _, negative = similarity(a, b, a_labels, b_labels)
        return ops.convert_to_tensor(noisy_product(np.asarray(a), np.asarray(b), rng)), negative

    similarity = device_counts._similarity
    with pytest.MonkeyPatch.context() as patch:
        for computed_by in ("processor", "accelerator"):
            patch.setattr(ranks_module, "on_accelerator", lambda: computed_by == "accelerator")
            for block_size in (64, 1024):
                ranks = best_positive_ranks(embeddings, labels, block_size=block_size)
                assert ranks.tolist() == expected
        patch.setattr(processor_ranks, "_product", noisy)
        patch.setattr(device_counts, "_similarity", noisy_tile)
        patch.setattr(device_counts, "compiled", lambda kernel: kernel)
        for computed_by in ("processor", "accelerator"):
            patch.setattr(ranks_module, "on_accelerator", lambda: computed_by == "accelerator")
            ranks = best_positive_ranks(embeddings, labels, block_size=64)
            assert ranks.tolist() == expected
            half = len(labels) // 2
            parts = embeddings[:half], labels[:half], embeddings[half:], labels[half:]
            ranks = best_positive_ranks(*parts, block_size=64)
            assert ranks.tolist() == ranks_oracle(*parts).tolist()


@pytest.mark.parametrize("dimension", [1, 2, 8, 513, 2048, 20_000])
def test_the_bound_of_float32_products_holds_and_says_something(dimension):
    rng = np.random.default_rng(dimension)
    bound = exact_similarity.rounding_bound(dimension)
    for row in (np.ones(dimension), rng.uniform(0.5, 1.5, dimension), rng.normal(size=dimension)):
        (unit,) = inputs.unit_rows(row[None])
        exact = math.fsum((unit.astype(np.float64) ** 2).tolist())
        # one number after the other: the order that loses most
        assert abs(np.cumsum(unit * unit, dtype=np.float32)[-1] - exact) <= bound
    assert bound <= 1.1e-7 * dimension


@given(st.lists(st.floats(-1.1, 1.1), min_size=1), st.sampled_from([1, 64, 512, 2**24]))
def test_thresholds_are_rounded_outwards(positives, dimension):
    positives = np.array([*positives, exact_similarity.NO_PAIR])
    bound = exact_similarity.rounding_bound(dimension)
    exact, low, high = exact_similarity.Thresholds.of_positives(positives, dimension)
    assert low.dtype == high.dtype == np.float32
    assert (exact[:-1] == positives[:-1] - exact_similarity.TIE).all()
    assert (low[:-1] <= exact[:-1] - bound).all() and (high[:-1] >= exact[:-1] + bound).all()
    assert (high[:-1] - low[:-1] - 2 * bound <= 3e-6).all()
    assert exact[-1] == low[-1] == high[-1] == np.inf


@pytest.mark.parametrize("dimension", [1, 2, 7, 64, 513])
def test_unit_rows_have_norm_one_and_one_order_of_summation(dimension):
    rows = np.random.default_rng(0).standard_normal((50, dimension)).astype(np.float32)
    unit = inputs.unit_rows(rows)
    assert unit.dtype == np.float32
    np.testing.assert_array_equal(unit, unit_rows(rows))
    # a row stands for itself, whatever stands beside it
    for row in (0, 49):
        np.testing.assert_array_equal(inputs.unit_rows(rows[[row]])[0], unit[row])


def test_nearly_collapsed_embeddings_score_about_chance():
    rng = np.random.default_rng(0)
    labels = np.arange(1000) % 10
    embeddings = np.ones((1000, 512)) + 1e-5 * rng.standard_normal((1000, 512))
    assert recall_at_k(embeddings, labels, (1,))[1] < 0.2


def test_a_duplicate_is_found_and_self_is_not():
    embeddings = np.eye(6)[[0, 1, 2, 3, 4, 0]]
    labels = [0, 1, 1, 2, 2, 0]
    recalls = recall_at_k(embeddings, labels, (1,))
    assert recalls[1] == 2 / 6  # only the two copies; all others tie at similarity 0


def test_zero_rows_tie_with_everything():
    embeddings = np.zeros((4, 3))
    assert recall_at_k(embeddings, [0, 0, 1, 1], (1, 3)) == {1: 0.0, 3: 1.0}


def test_k_beyond_the_gallery_is_one():
    embeddings, labels = clustered(20, 3)
    assert recall_at_k(embeddings, labels, (19, 20, 1000)) == {19: 1.0, 20: 1.0, 1000: 1.0}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(4, 60), classes=st.integers(1, 12))
def test_order_scale_and_monotony(seed, num_rows, classes):
    embeddings, labels = clustered(num_rows, classes, dimension=4, seed=seed)
    labels[1] = labels[0]
    recalls = recall_at_k(embeddings, labels, KS)
    order = np.random.default_rng(seed).permutation(num_rows)
    assert recall_at_k(embeddings[order], labels[order], KS) == recalls
    assert recall_at_k(embeddings * 2.0**40, 1000 - labels, KS) == recalls
    values = [recalls[k] for k in KS]
    assert values == sorted(values) and 0 <= values[0] and values[-1] <= 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_gallery_without_the_query_is_the_self_form(seed):
    embeddings, labels = clustered(30, 6, dimension=4, seed=seed)
    labels[1] = labels[0]
    ranks = best_positive_ranks(embeddings, labels)
    for i in range(0, 30, 7):
        rest = np.arange(30) != i
        one = best_positive_ranks(embeddings[[i]], labels[[i]], embeddings[rest], labels[rest])
        assert one[0] == ranks[i]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_integer_labels_of_any_kind_and_shape(dtype):
    embeddings, labels = clustered(60, 5)
    expected = recall_at_k(embeddings, labels, KS)
    assert recall_at_k(embeddings, labels.astype(dtype), KS) == expected
    assert recall_at_k(embeddings, labels.astype(dtype)[:, None], KS) == expected


@pytest.mark.parametrize("start", [2**24, 2**53, 2**62])
def test_large_ids_stay_apart(start):
    embeddings, labels = clustered(60, 5)
    expected = recall_at_k(embeddings, labels, KS)
    assert recall_at_k(embeddings, labels + start, KS) == expected
    mixed = recall_at_k(
        embeddings, (labels + start).astype(np.uint64), KS, embeddings, labels + start
    )
    assert mixed == recall_at_k(embeddings, labels, KS, embeddings, labels)


def test_floats_of_any_size_kind_and_library():
    import tensorflow as tf

    embeddings, labels = clustered(60, 5)
    expected = recall_at_k(embeddings, labels, KS)
    assert recall_at_k(tf.constant(embeddings), tf.constant(labels), KS) == expected
    assert recall_at_k(embeddings.tolist(), labels.tolist(), KS) == expected
    assert recall_at_k(embeddings.astype(np.float64) * 1e200, labels, KS) == expected
    assert recall_at_k(embeddings * np.float32(2.0**100), labels, KS) == expected
    assert recall_at_k(embeddings * np.float32(2.0**-100), labels, KS) == expected
    for half in (embeddings.astype(np.float16), tf.cast(embeddings, tf.bfloat16)):
        same = recall_at_k_oracle(np.asarray(half).astype(np.float64), labels, KS)[0]
        assert recall_at_k(half, labels, KS) == same


def nan_in_rows(*rows):
    embeddings, _ = clustered(20, 3)
    embeddings[list(rows), 2] = np.nan
    return embeddings


GOOD, LABELS = clustered(20, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nan_in_rows(7, 9), LABELS), r"2 of 20 rows .* first is row 7"),
        ((np.where(GOOD > 2, np.inf, GOOD), LABELS), "infinity"),
        ((GOOD[0], LABELS), r"Received shape: \(16,\)"),
        ((GOOD[:0], LABELS[:0]), r"Received shape: \(0, 16\)"),
        ((GOOD.astype(str), LABELS), "Expected real numbers"),
        ((GOOD, LABELS[:-1]), r"shape \(20,\) or \(20, 1\).*Received: int64 of shape \(19,\)"),
        ((GOOD, np.eye(3)[LABELS]), "integer class ids.*float64"),
        ((GOOD, LABELS.astype(np.float32)), "integer class ids.*float32"),
        ((GOOD, np.eye(3, dtype=int)[LABELS]), r"Received: int64 of shape \(20, 3\)"),
        ((GOOD, np.full(20, 2**64 - 1, np.uint64)), "fit int64"),
        ((GOOD, LABELS, ()), "`ks`"),
        ((GOOD, LABELS, (0, 1)), "`ks`"),
        ((GOOD, LABELS, (1.5,)), "`ks`"),
        ((GOOD, LABELS, (True,)), "`ks`"),
        ((GOOD, LABELS, 5), "`ks`"),
        ((GOOD, np.arange(20)), "20 queries, none"),
        ((GOOD, LABELS, (1,), GOOD), "Received only `gallery_embeddings`"),
        ((GOOD, LABELS, (1,), None, LABELS), "Received only `gallery_labels`"),
        ((GOOD, LABELS, (1,), GOOD[:, :3], LABELS), "same dimension"),
        ((GOOD, LABELS, (1,), nan_in_rows(3), LABELS), "`gallery_embeddings` must be finite"),
        ((GOOD, LABELS, (1,), GOOD, LABELS + 50), "20 queries, none"),
    ],
)
def test_bad_input_is_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(*arguments)


def test_block_size_must_be_positive():
    with pytest.raises(ValueError, match="block_size"):
        recall_at_k(GOOD, LABELS, block_size=0)


@pytest.mark.parametrize("num_classes", [1, 3, 40, 997])
@pytest.mark.parametrize("block_size", [1, 7, 64, 256])
def test_compiled_blocks_hold_every_row_once_and_share_one_shape(num_classes, block_size):
    embeddings, labels = clustered(997, num_classes, dimension=3)
    rows, _ = inputs.retrieval_sets(embeddings, labels)
    blocks = device_ranks._blocks(rows, block_size)
    items = np.concatenate([np.arange(997)[block.where] for block in blocks])
    assert sorted(items) == list(range(997))
    assert len({tuple(block.rows.shape) for block in blocks}) == 1
    assert blocks[0].rows.shape[0] <= block_size
    assert len(blocks) <= np.ceil(997 / max(1, block_size - block_size // 16))


@pytest.mark.parametrize("sizes", [[1], [3, 3, 3, 3], [9], [9, 1, 9], [1, 2, 9, 4, 4, 1]])
def test_blocks_of_whole_classes(sizes):
    stops = np.cumsum(sizes).tolist()
    spans = list(zip([0, *stops], stops))
    blocks = processor_ranks._blocks_of_classes(spans, 8)
    assert [start for start, _ in blocks] + [stops[-1]] == [0, *(stop for _, stop in blocks)]
    assert {stop for _, stop in blocks} <= set(stops)
    assert all(stop - start <= 8 or (start, stop) in spans for start, stop in blocks)


@pytest.mark.parametrize("block_size", [8, 2048])
def test_queries_that_are_in_the_gallery_leave_themselves_out(block_size, computed_by):
    embeddings, labels = clustered(200, 30, seed=9)
    embeddings[150:] = embeddings[:50]  # duplicates still count
    gallery = np.random.default_rng(0).permutation(200)[:170]
    positions = np.full(200, -1)
    positions[gallery] = np.arange(170)
    queries = np.arange(20, 190)
    ranks = best_positive_ranks(
        embeddings[queries],
        labels[queries],
        embeddings[gallery],
        labels[gallery],
        query_positions=positions[queries],
        block_size=block_size,
    )
    for query, rank in zip(queries, ranks):
        others = gallery[gallery != query]
        alone = best_positive_ranks(
            embeddings[[query]], labels[[query]], embeddings[others], labels[others]
        )
        assert rank == alone[0]
    everything = best_positive_ranks(
        embeddings, labels, embeddings, labels, query_positions=np.arange(200)
    )
    assert everything.tolist() == best_positive_ranks(embeddings, labels).tolist()


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (np.arange(3), r"shape \(20,\)"),
        (np.arange(20.0), "as integers"),
        (np.arange(1, 21), "0 to 19"),
        (np.arange(20) - 2, "-1 for a query"),
    ],
)
def test_wrong_query_positions_are_explained(positions, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(GOOD, LABELS, (1,), GOOD, LABELS, query_positions=positions)
    with pytest.raises(ValueError, match="no gallery was given"):
        recall_at_k(GOOD, LABELS, (1,), query_positions=np.arange(20))


def test_progress_ends_at_all_queries(computed_by):
    told = []
    embeddings, labels = clustered(500, 50)
    best_positive_ranks(embeddings, labels, block_size=64, progress=lambda *done: told.append(done))
    assert told == sorted(told) and told[-1] == (500, 500) and len(told) > 3


@pytest.mark.slow
@pytest.mark.release
def test_memory_stays_far_below_the_square_of_the_set():
    # all similarities of 12,000 images: 576 MB in one piece; tiles of 512 need a few MB
    script = """
        import resource
        import numpy as np
        from keras_ms.evaluation.retrieval import recall_at_k

        rng = np.random.default_rng(0)
        embeddings = rng.standard_normal((12_000, 16), dtype=np.float32)
        labels = rng.integers(0, 3000, 12_000)
        recall_at_k(embeddings[:2000], labels[:2000], block_size=512)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        recall_at_k(embeddings, labels, block_size=512)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout.split()[-1]) < 100_000  # KiB


@pytest.mark.parametrize("with_gallery", [False, True])
def test_best_positives_of_small_classes_and_of_large_ones(with_gallery):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(7), [1, 2, 3, 3, 64, 65, 130])
    embeddings = rng.standard_normal((len(labels), 9)).astype(np.float32)
    gallery = ()
    if with_gallery:
        kept = rng.permutation(len(labels))[:150]
        gallery = embeddings[kept], labels[kept]
    positions = np.full(len(labels), -1)
    if with_gallery:
        positions[kept] = np.arange(150)
    queries, items = inputs.retrieval_sets(
        embeddings, labels, *gallery, query_positions=positions if with_gallery else None
    )
    similarity = queries.rows.astype(np.float64) @ items.rows.astype(np.float64).T
    is_positive = queries.classes[:, None] == items.classes
    is_positive &= queries.image_numbers[:, None] != items.image_numbers
    expected = np.where(is_positive, similarity, exact_similarity.NO_PAIR).max(axis=1)
    for block_size in (7, 1024):
        found = exact_similarity.best_positives(queries, items, block_size)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert (found == exact_similarity.NO_PAIR).any() and (found > exact_similarity.NO_PAIR).any()


def test_numpy_s_settings_are_left_as_they_are():
    before = np.getbufsize()
    best_positive_ranks(*clustered(50, 10, seed=0))
    assert np.getbufsize() == before
