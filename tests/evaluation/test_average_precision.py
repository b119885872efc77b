import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from difficult_embeddings import DIFFICULT, difficult, noisy_product
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_retrieval import precision_at_r_oracle

from keras_ms.evaluation import average_precision as module
from keras_ms.evaluation.average_precision import precision_at_r


def clustered(num_rows, num_classes, dimension=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_rows)
    centres = rng.standard_normal((num_classes, dimension))
    embeddings = 0.8 * centres[labels] + rng.standard_normal((num_rows, dimension))
    return embeddings.astype(np.float32), labels


def assert_equals_the_oracle(scores, *sets):
    for found, expected in zip(scores, precision_at_r_oracle(*sets)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.fixture(params=["processor", "accelerator"])
def computed_by(request, monkeypatch):
    monkeypatch.setattr(module, "on_accelerator", lambda: request.param == "accelerator")


# one class: no negatives; two: R beyond the number of negatives; many: most are singletons
@pytest.mark.parametrize("num_classes", [1, 2, 7, 60, 400])
@pytest.mark.parametrize("block_size", [37, None])
@pytest.mark.parametrize("duplicates", [0, 80])
def test_equals_the_oracle(num_classes, block_size, duplicates, computed_by):
    embeddings, labels = clustered(301, num_classes, seed=num_classes + duplicates)
    embeddings[:duplicates] = embeddings[duplicates : 2 * duplicates]
    scores = precision_at_r(embeddings, labels, block_size=block_size)
    assert_equals_the_oracle(scores, embeddings, labels)
    sizes = np.bincount(labels)[labels]
    assert scores.num_relevant.tolist() == (sizes - 1).tolist()


@pytest.mark.parametrize("num_classes", [1, 7, 60, 400])
@pytest.mark.parametrize("block_size", [37, None])
@pytest.mark.parametrize("overlap", [0, 50])
def test_gallery_equals_the_oracle(num_classes, block_size, overlap, computed_by):
    embeddings, labels = clustered(400, num_classes, seed=5)
    queries, gallery = slice(0, 130 + overlap), slice(130, 400)
    positions = np.arange(130 + overlap) - 130
    positions[:130] = -1
    sets = embeddings[queries], labels[queries], embeddings[gallery], labels[gallery]
    scores = precision_at_r(*sets, query_positions=positions, block_size=block_size)
    assert_equals_the_oracle(scores, *sets, positions)


def test_by_hand():
    # from row 0 at 0°: 10° (other), 20° (same), 30° (same), 40° (other); R = 2
    angles = np.radians([0, 10, 20, 30, 40])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scores = precision_at_r(embeddings, [1, 2, 1, 1, 3])
    assert scores.r_precision[0] == 1 / 2
    assert scores.average_precision[0] == (1 / 2) / 2
    assert np.isnan(scores.r_precision[[1, 4]]).all() and scores.num_relevant[1] == 0


@pytest.mark.parametrize("dimension", [8, 64, 512, 513, 1000, 1279])
@pytest.mark.parametrize("num_rows", [50, 777])
def test_collapsed_embeddings_score_nothing(dimension, num_rows, computed_by):
    labels = np.arange(num_rows) % 10
    row = np.random.default_rng(num_rows).standard_normal(dimension)
    for collapsed in (np.ones((num_rows, dimension)), np.tile(row, (num_rows, 1))):
        scores = precision_at_r(collapsed, labels)
        assert not scores.r_precision.any() and not scores.average_precision.any()


@pytest.mark.parametrize("kind", DIFFICULT)
@pytest.mark.parametrize("computed_by", ["processor", "accelerator"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_float32_may_round_as_it_likes(kind, computed_by, seed):
    embeddings, labels = difficult(kind, seed)
    rng = np.random.default_rng(seed)

    def noisy(queries, gallery, block_size):
        return lambda start, stop: noisy_product(queries[start:stop], gallery, rng)

    plain = precision_at_r(embeddings, labels, block_size=37)
    assert_equals_the_oracle(plain, embeddings, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "on_accelerator", lambda: computed_by == "accelerator")
        same = [precision_at_r(embeddings, labels), precision_at_r(embeddings, labels)]
        patch.setattr(module, "_product", noisy)
        same.append(precision_at_r(embeddings, labels, block_size=64))
    for scores in same:
        for found, expected in zip(scores, plain):
            np.testing.assert_array_equal(found, expected)


def test_a_perfect_embedding_scores_one():
    labels = np.repeat(np.arange(9), 7)
    scores = precision_at_r(np.eye(9)[labels], labels)
    assert (scores.r_precision == 1).all() and (scores.average_precision == 1).all()


def test_bad_input_is_explained():
    embeddings, labels = clustered(20, 3)
    with pytest.raises(ValueError, match="block_size"):
        precision_at_r(embeddings, labels, block_size=0)
    embeddings[3] = np.nan
    with pytest.raises(ValueError, match="the first is row 3"):
        precision_at_r(embeddings, labels)


@pytest.mark.slow
@pytest.mark.release
def test_memory_stays_far_below_the_square_of_the_set():
    # all similarities of 12,000 images: 576 MB. One class of 2,000: as many items to find
    script = """
        import resource
        import numpy as np
        from keras_ms.evaluation.average_precision import precision_at_r

        rng = np.random.default_rng(0)
        embeddings = rng.standard_normal((12_000, 16), dtype=np.float32)
        labels = np.maximum(np.arange(12_000) // 4, 500)
        precision_at_r(embeddings[:3000], labels[:3000], block_size=64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        precision_at_r(embeddings, labels, block_size=64)
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
