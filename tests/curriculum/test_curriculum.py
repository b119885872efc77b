import numpy as np
import oracles_curriculum as oracles
import pytest

from keras_ms.curriculum import density as subset_density
from keras_ms.curriculum.density import class_density, principal_components, split_values
from keras_ms.curriculum.subsets import CurriculumSubsets, curriculum_stages, curriculum_subsets


def drawn(n, dimension, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dimension)).astype(np.float32)


def clumps(seed=0):
    """A dense clump, a loose one and far points, with repeated images."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0, 0.1, (20, 3)), rng.normal(1, 1, (12, 3)), rng.normal(0, 9, (6, 3))]
    points = np.concatenate(parts)
    return np.concatenate([points, points[:5]]).astype(np.float32)


CLASSES = {
    "random": drawn(37, 5),
    "random, far from 0": drawn(30, 4, 1) + 1000,
    "clumps": clumps(),
    "one image": drawn(1, 4),
    "two images": drawn(2, 4),
    "three images": drawn(3, 4),
    "all the same": np.full((9, 4), 0.1, np.float32),
    "most the same": np.concatenate([np.full((9, 4), 0.3), drawn(3, 4)]).astype(np.float32),
    "half the same": np.concatenate([np.full((9, 4), 0.3), drawn(9, 4)]).astype(np.float32),
    "all equally far": 0.3 * np.eye(12, dtype=np.float32),
    "two places": np.repeat(drawn(2, 4), 7, axis=0),
    "a line": np.arange(12, dtype=np.float32)[:, None],
}


@pytest.fixture(params=[4, 1024], ids=["small tiles", "one tile"])
def tiles(request, monkeypatch):
    """Small tiles, and so few distances at once that they are counted bit by bit."""
    monkeypatch.setattr(subset_density, "_BLOCK", request.param)
    if request.param == 4:
        monkeypatch.setattr(subset_density, "_MOST_KEPT", 2 * 4**2)
        monkeypatch.setattr(subset_density, "_BITS", 6)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("quantile", [0.5, 0.6, 0.7])
def test_count_density_is_the_literal_one(tiles, name, quantile):
    points = CLASSES[name]
    distance = oracles.distances(points)
    near = oracles.cutoff(distance, quantile)
    found = class_density(points, distance_quantile=quantile)
    np.testing.assert_allclose(found.cutoff, near, rtol=1e-7)
    expected = oracles.count_density(distance, near)
    if name in ("a line", "random, far from 0"):
        # equal distances that float64 subtracts exactly, and ours within rounding
        near = near * (1 - 1e-7)
        expected = oracles.count_density(distance, near)
    np.testing.assert_array_equal(found.density, expected)
    np.testing.assert_allclose(found.delta, oracles.delta(distance, expected), rtol=1e-6)
    assert found.centre == np.argmax(expected)
    np.testing.assert_allclose(found.to_centre, distance[found.centre], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_gaussian_density_is_the_literal_one(tiles, name):
    points = CLASSES[name]
    distance = oracles.distances(points)
    found = class_density(points, "gaussian")
    expected = oracles.gaussian_density(distance)
    np.testing.assert_allclose(found.density, expected, atol=1e-8 * len(points))
    tolerance = 2e-9 * len(points)
    np.testing.assert_allclose(
        found.delta, oracles.delta(distance, expected, tolerance), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_values_are_divided_at_the_least_cost(name, parts):
    values = class_density(CLASSES[name]).density
    groups = split_values(values, parts)
    least, divisions = oracles.best_divisions(values, parts)
    assert any(np.array_equal(groups, division) for division in divisions)
    assert oracles.squared_distance_to_means(values, groups) <= least + 1e-9 * (1 + least)


def test_random_values_are_divided_at_the_least_cost():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = rng.integers(0, 30, rng.integers(1, 25)) * rng.choice([1.0, 0.1, 1e5])
        parts = int(rng.integers(1, 5))
        groups = split_values(values, parts)
        least, _ = oracles.best_divisions(values, parts)
        assert oracles.squared_distance_to_means(values, groups) <= least * (1 + 1e-9) + 1e-9
        # runs: a higher value is never in a lower group
        assert (np.diff(groups[np.argsort(values, kind="stable")]) >= 0).all()
        assert set(groups) == set(range(min(parts, len(np.unique(values)))))


def test_kmeans_of_scikit_learn_finds_no_better_division():
    cluster = pytest.importorskip("sklearn.cluster")
    values = class_density(drawn(100, 8)).density
    theirs = cluster.KMeans(3, n_init=10, random_state=0).fit(values[:, None])
    ours = oracles.squared_distance_to_means(values, split_values(values, 3))
    assert ours <= theirs.inertia_ * (1 + 1e-9)
    assert ours >= 0.99 * theirs.inertia_


def test_subsets_are_those_of_the_literal_densities():
    features = np.concatenate([CLASSES["clumps"], CLASSES["clumps"][:1], drawn(25, 3, 5)])
    labels = np.array([7] * len(CLASSES["clumps"]) + [2] + [-3] * 25)
    # in any order
    order = np.random.default_rng(0).permutation(len(labels))
    found = curriculum_subsets(features[order], labels[order])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels[order] == label)
        distance = oracles.distances(features[order][rows])
        density = oracles.count_density(distance, oracles.cutoff(distance))
        np.testing.assert_array_equal(found.density[rows], density)
        _, divisions = oracles.best_divisions(density, 3)
        assert any(np.array_equal(found.subset[rows], d.max() - d) for d in divisions)
        np.testing.assert_array_equal(np.flatnonzero(found.centre[rows]), [np.argmax(density)])
    assert found.subset.dtype == np.int8


def test_by_distance_to_the_densest_image():
    features = CLASSES["clumps"]
    found = curriculum_subsets(features, np.zeros(len(features), int), method="distance")
    distance = oracles.distances(features)
    centre = np.argmax(oracles.count_density(distance, oracles.cutoff(distance)))
    others = np.arange(len(features)) != centre
    _, divisions = oracles.best_divisions(distance[centre][others] / distance[centre].max(), 3)
    assert any(np.array_equal(found.subset[others], division) for division in divisions)
    assert found.subset[centre] == 0


def test_the_densest_image_is_no_subset_alone():
    # in many dimensions all others are about equally far from it
    labels = np.repeat(np.arange(20), 33)
    found = curriculum_subsets(drawn(len(labels), 64), labels, method="distance")
    for label in range(20):
        assert found.subset[found.centre & (labels == label)] == 0
        assert np.bincount(found.subset[labels == label]).min() > 1


@pytest.mark.parametrize("density", ["count", "gaussian"])
@pytest.mark.parametrize("method", ["k-means", "distance"])
@pytest.mark.parametrize("name", ["one image", "all the same"])
def test_what_cannot_be_told_apart_is_clean(name, method, density):
    features = CLASSES[name]
    labels = np.zeros(len(features), int)
    found = curriculum_subsets(features, labels, method=method, density=density)
    assert not found.subset.any() and not found.delta.any()


def test_repeated_images_are_dense_not_sparse():
    features = CLASSES["most the same"]
    found = curriculum_subsets(features, np.zeros(len(features), int))
    np.testing.assert_array_equal(found.subset[:9], 0)
    assert (found.subset[9:] > 0).all() and (found.density >= 0).all()


def test_no_rounding_decides_between_equally_far_images():
    found = class_density(CLASSES["all equally far"])
    np.testing.assert_array_equal(found.density, 0)
    subset = curriculum_subsets(CLASSES["all equally far"], np.zeros(12, int)).subset
    np.testing.assert_array_equal(subset, 0)


def test_principal_components_keep_the_distances_they_can():
    points = drawn(40, 12)
    np.testing.assert_allclose(
        oracles.distances(principal_components(points.astype(float), 12)),
        oracles.distances(points),
        atol=1e-6,
    )
    # fewer images than dimensions, and more: the same subspace
    for features in (drawn(20, 30), drawn(30, 20)):
        reduced = principal_components(features.astype(float), 6)
        assert reduced.shape == (len(features), 6)
        centred = features - features.mean(axis=0, dtype=float)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(
            oracles.distances(reduced), oracles.distances(u[:, :6] * s[:6]), atol=1e-9
        )


def test_the_dimension_is_reduced_only_where_it_fits():
    features, labels = drawn(20, 30), np.zeros(20, int)
    whole = curriculum_subsets(features, labels, max_dimension=None)
    np.testing.assert_array_equal(curriculum_subsets(features, labels).density, whole.density)
    few = curriculum_subsets(features, labels, max_dimension=2)
    assert not np.array_equal(few.density, whole.density)


def test_workers_and_order_change_nothing():
    features, labels = drawn(400, 6), np.random.default_rng(0).integers(0, 9, 400)
    seen = []
    alone = curriculum_subsets(
        features, labels, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(done, 9) for done in range(1, 10)]
    together = curriculum_subsets(features, labels, workers=4)
    order = np.random.default_rng(1).permutation(400)
    shuffled = curriculum_subsets(features[order], labels[order])
    for one, other, mixed in zip(alone, together, shuffled):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(alone.subset[order], shuffled.subset)
    np.testing.assert_array_equal(alone.density[order], shuffled.density)


def test_wrong_labels_end_in_later_subsets():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, 16)) * 2
    labels = np.repeat(np.arange(5), 60)
    features = centres[labels] + rng.standard_normal((300, 16))
    wrong = rng.random(300) < 0.3
    noisy = np.where(wrong, (labels + rng.integers(1, 5, 300)) % 5, labels)
    subset = curriculum_subsets(features, noisy).subset
    shares = [wrong[subset == number].mean() for number in range(3)]
    assert shares[0] < 0.02 and shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": np.zeros((4, 2, 2))}, "shape"),
        ({"features": np.zeros((3, 2))}, "for each of 4 labels"),
        ({"features": np.full((4, 2), np.nan)}, "Row 0 has NaN"),
        ({"features": np.full((4, 2), "a")}, "numbers"),
        ({"labels": np.zeros(4)}, "integers"),
        ({"method": "kmeans"}, "'k-means', 'distance'"),
        ({"density": "knn"}, "'count', 'gaussian'"),
        ({"subsets": 0}, "1 to 127"),
        ({"subsets": 2.5}, "1 to 127, a whole number"),
        ({"subsets": float("nan")}, "1 to 127"),
        ({"distance_quantile": 60}, "> 0 and < 1"),
        ({"max_dimension": 0}, "max_dimension"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"features": np.zeros((4, 2)), "labels": np.zeros(4, int)} | change
    with pytest.raises(ValueError, match=message):
        curriculum_subsets(**arguments)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"density": "Count"}, "'count', 'gaussian'"),
        ({"distance_quantile": 1.0}, "> 0 and < 1"),
        ({"max_dimension": 0}, "max_dimension"),
    ],
)
def test_wrong_arguments_of_a_class_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        class_density(np.zeros((4, 2)), **options)


def test_whole_floats_are_whole_numbers():
    features, labels = drawn(30, 5), np.zeros(30, int)
    found = curriculum_subsets(features, labels, 3.0, max_dimension=2.0, workers=1.0)
    expected = curriculum_subsets(features, labels, 3, max_dimension=2, workers=1)
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one, other)


def test_below_a_share_of_one_image_only_repeated_images_are_dense():
    found = class_density(CLASSES["clumps"], distance_quantile=0.5 / len(CLASSES["clumps"]))
    assert found.cutoff == 0
    np.testing.assert_array_equal(found.density, [1] * 5 + [0] * 33 + [1] * 5)


def test_stages_add_a_subset_each():
    subset = np.array([1, 0, 2, 0, 1], np.int8)
    first, second, third = curriculum_stages(subset)
    np.testing.assert_array_equal(first.rows, [1, 3])
    np.testing.assert_array_equal(second.rows, [0, 1, 3, 4])
    np.testing.assert_array_equal(third.rows, np.arange(5))
    np.testing.assert_array_equal(third.weights, np.float32([0.5, 1, 0.5, 1, 0.5]))
    np.testing.assert_array_equal(second.weights, np.float32([0.5, 1, 1, 0.5]))
    # fewer stages leave the noisiest out; the last weight stands for those after it
    assert len(curriculum_stages(subset, 2)) == 2
    np.testing.assert_array_equal(curriculum_stages(subset, 3, [1, 0.25])[2].weights[2], 0.25)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([1, 2],), "subset 0"),
        (([0.0, 1.0],), "whole numbers"),
        (([-1, 0],), "least -1"),
        (([],), "whole numbers"),
        (([0, 1], 0), "at least 1"),
        (([0, 1], 2, [-1.0]), "at least 0"),
    ],
)
def test_wrong_stages_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        curriculum_stages(*arguments)


def test_subsets_are_plain_arrays():
    found = curriculum_subsets(drawn(5, 2), np.zeros(5, int))
    assert isinstance(found, CurriculumSubsets)
    assert [array.shape for array in found] == [(5,)] * 4
