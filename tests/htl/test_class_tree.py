"""The class tree against its definition, pair by pair; its file, its picture, its errors."""

import doctest

import keras
import numpy as np
import oracles_class_tree as oracles
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import keras_ms
from keras_ms.htl import batches, callback, class_tree
from keras_ms.htl import loss as hierarchical_triplet
from keras_ms.htl.class_tree import ClassTree
from keras_ms.htl.hierarchy import class_distances, class_means, class_spreads

linkages = pytest.mark.parametrize("linkage", ["average", "single"])


def clustered(seed, sizes=(4, 3, 5, 2, 1, 3, 1, 4), dimension=3):
    """Embeddings and labels: classes in a few clusters, ids that are not 0, 1, 2."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(2**40, len(sizes), replace=False)) - 2**39
    clusters = rng.normal(size=(3, dimension))
    centres = clusters[rng.integers(3, size=len(sizes))]
    centres = centres + rng.normal(size=centres.shape) * rng.choice([0.1, 0.5])
    index = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    embeddings = centres[index] + 0.3 * rng.normal(size=(len(index), dimension))
    return embeddings, ids[index]


def assert_is_the_oracles(tree, embeddings, labels, levels, linkage):
    spread, thresholds, merged_at, closest = oracles.tree(embeddings, labels, levels, linkage)
    assert_array_equal(tree.class_ids, sorted(spread))
    assert_allclose(tree.spreads, list(spread.values()), atol=1e-12)
    assert_allclose(tree.thresholds, thresholds, atol=1e-12)
    assert tree.nodes.dtype == np.int32 and tree.nodes.shape == (len(spread), levels + 1)
    assert tree.num_nodes()[-1] == 1
    if closest > 1e-9:
        for (p, q), level in merged_at.items():
            assert tree.merge_levels(p, q) == level
            assert tree.distances(p, q) == tree.thresholds[level]
    return closest > 1e-9, tree.num_nodes()


@linkages
def test_random_trees_are_those_of_the_definition(linkage):
    compared, shapes = 0, set()
    for seed in range(30):
        embeddings, labels = clustered(seed)
        levels = (16, 5, 1)[seed % 3]
        tree = ClassTree.build(embeddings, labels, levels, linkage)
        clear, numbers = assert_is_the_oracles(tree, embeddings, labels, levels, linkage)
        compared += clear
        shapes.add(tuple(numbers))
        # a node only grows: whoever shares it at a level shares it at all later ones
        same = tree.nodes[:, None] == tree.nodes[None]
        assert (same[..., :-1] <= same[..., 1:]).all()
    assert compared == 30 and len(shapes) > 15


def test_linkages_differ_on_a_chain():
    angles = np.deg2rad(np.repeat([0, 25, 50, 75, 100], 2) + np.tile([0, 1], 5))
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.repeat(range(5), 2)
    single = ClassTree.build(embeddings, labels, linkage="single")
    average = ClassTree.build(embeddings, labels, linkage="average")
    assert single.merge_levels(0, 4) == 1 and average.merge_levels(0, 4) > 2


def test_closed_forms_of_distance_and_spread():
    embeddings, labels = clustered(3)
    ids, means, counts = class_means(embeddings.astype(np.float32) * 7, labels)
    rows = oracles.unit(embeddings)
    for i, p in enumerate(ids):
        for j, q in enumerate(ids):
            expected = oracles.class_distance(rows, labels, p, q) if i != j else 0
            assert class_distances(means)[i, j] == pytest.approx(expected, abs=1e-6)
    expected, lowest = oracles.spreads(rows, labels)
    assert_allclose(class_spreads(means, counts), list(expected.values()), atol=1e-6)
    assert_allclose(class_spreads(means, counts)[counts == 1], [lowest] * 2, atol=1e-6)


DEGENERATE = {
    "identical points": ([[1.0, 2.0]] * 6, [0, 0, 1, 1, 2, 2]),
    "two classes": ([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]], [8, 8, 3, 3]),
    "one class": ([[1.0, 0.0], [0.0, 1.0]], [4, 4]),
    "one-image classes but one": ([[1.0, 0], [0, 1.0], [-1, 0.2], [0.3, -1]], [0, 0, 1, 2]),
    "opposite collapsed classes": ([[1.0, 0.0]] * 2 + [[-1.0, 0.0]] * 2, [0, 0, 1, 1]),
    "opposite images of a class": ([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], [0, 0, 1]),
}


@linkages
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_trees(name, linkage):
    embeddings, labels = DEGENERATE[name]
    tree = ClassTree.build(embeddings, labels, 16, linkage)
    assert np.isfinite(tree.spreads).all() and np.isfinite(tree.thresholds).all()
    assert (np.diff(tree.thresholds) >= 0).all() and tree.thresholds[-1] == 4
    assert_is_the_oracles(tree, embeddings, labels, 16, linkage)
    assert tree.nearest(len(tree.class_ids) - 1).shape[0] == len(tree.class_ids)


def test_what_degenerate_trees_are():
    same = ClassTree.build(*DEGENERATE["identical points"])
    assert same.thresholds[0] == pytest.approx(0, abs=1e-12)
    assert same.num_nodes()[1:] == [1] * 16
    opposite = ClassTree.build(*DEGENERATE["opposite collapsed classes"])
    # at distance 4 exactly nothing is below the last threshold, and still it merges
    assert opposite.merge_levels(0, 1) == 16 and opposite.distances(0, 1) == 4
    assert ClassTree.build(*DEGENERATE["one class"]).num_nodes() == [1] * 17


@linkages
def test_equal_distances_merge_at_one_level(linkage):
    embeddings = np.repeat(np.eye(5), 3, axis=0)
    tree = ClassTree.build(embeddings, np.repeat(range(5), 3), 16, linkage)
    # d_0 = 0 and d = 2: not below d_8 = 2, below d_9
    assert tree.num_nodes() == [5] * 9 + [1] * 8
    assert_array_equal(tree.nearest(4)[2], [0, 1, 3, 4])  # equally near ones in their order


def test_nearest_are_by_distance(monkeypatch):
    embeddings, labels = clustered(5, sizes=(3,) * 20, dimension=4)
    tree = ClassTree.build(embeddings, labels)
    distances = class_distances(class_means(embeddings, labels)[1])
    np.fill_diagonal(distances, np.inf)
    expected = tree.class_ids[np.argsort(distances, axis=1)[:, :7]]
    assert_array_equal(tree.nearest(7), expected)
    for module in ("class_tree", "hierarchy"):
        monkeypatch.setattr(f"keras_ms.htl.{module}.BLOCK", 6)
    assert_array_equal(tree.nearest(7), expected)
    again = ClassTree.build(embeddings, labels)
    assert_array_equal(again.nodes, tree.nodes)
    assert tree.nearest(0).shape == (20, 0)


def test_equally_near_classes_come_in_the_order_of_their_ids():
    tree = ClassTree.build(np.repeat(np.eye(1000), 2, axis=0), np.repeat(range(1000), 2))
    nearest = tree.nearest(3)
    assert_array_equal(
        nearest[[0, 1, 2, 3, 999]], [[1, 2, 3], [0, 2, 3], [0, 1, 3], *[[0, 1, 2]] * 2]
    )
    assert (nearest[3:] == [0, 1, 2]).all()


def test_other_files_are_no_trees(tmp_path):
    ClassTree.build(*clustered(1)).save(tmp_path / "tree.npz")
    whole = (tmp_path / "tree.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.ones(3))
    damaged = bytearray(whole)
    damaged[200] ^= 255  # in an array: its checksum is wrong
    contents = {
        "array": (tmp_path / "array.npy").read_bytes(),
        "text": b"a tree\n",
        "empty": b"",
        "cut_off": whole[:-30],
        "damaged": bytes(damaged),
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(ValueError, match="Expected a saved ClassTree"):
            ClassTree.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        ClassTree.load(tmp_path / "none.npz")


def test_names_of_negative_class_ids(tmp_path):
    pytest.importorskip("matplotlib")
    tree = ClassTree.build([[1.0, 0], [1, 1], [0, 1], [0, 2]], [-1, -1, 0, 0])
    with pytest.raises(ValueError, match="Expected a dict of names: class id -1"):
        tree.draw(tmp_path / "tree.svg", ["wren", "owl"])
    tree.draw(tmp_path / "tree.svg", {-1: "wren", 0: "owl"})


def test_labels_in_a_column():
    embeddings, labels = clustered(1)
    column = ClassTree.build(embeddings, labels[:, None])
    assert_array_equal(column.nodes, ClassTree.build(embeddings, labels).nodes)


EXAMPLES = [
    test
    for module in (
        class_tree, callback, batches, hierarchical_triplet
    )
    for test in doctest.DocTestFinder().find(
        module, extraglobs={"np": np, "keras": keras, "keras_ms": keras_ms}
    )
    if test.examples
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:No anchor")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_examples_of_the_docstrings(example):
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


def test_saved_tree_is_the_same(tmp_path):
    tree = ClassTree.build(*clustered(1))
    tree.save(tmp_path / "class_tree")
    loaded = ClassTree.load(tmp_path / "class_tree.npz")
    for name in ("class_ids", "nodes", "thresholds", "spreads", "means"):
        assert_array_equal(getattr(loaded, name), getattr(tree, name))
        assert getattr(loaded, name).dtype == getattr(tree, name).dtype
    levels = ClassTree.from_config(tree.get_config())
    levels.save(tmp_path / "levels.npz")
    assert ClassTree.load(tmp_path / "levels.npz").means is None
    assert_array_equal(levels.nodes, tree.nodes)
    with pytest.raises(ValueError, match="with class means"):
        levels.nearest(2)
    np.savez(tmp_path / "other.npz", labels=[1])
    with pytest.raises(ValueError, match="lacks .*class_ids"):
        ClassTree.load(tmp_path / "other.npz")


@pytest.mark.parametrize("num_classes", [1, 10, 450])
def test_picture(tmp_path, num_classes):
    matplotlib = pytest.importorskip("matplotlib")
    embeddings, labels = clustered(2, sizes=(2,) * num_classes)
    tree = ClassTree.build(embeddings, labels)
    tree.draw(tmp_path / "tree.png", dict.fromkeys(tree.class_ids.tolist(), "a bird"))
    picture = matplotlib.image.imread(tmp_path / "tree.png")
    assert 100 < len(picture) < 8000 and picture.std() > 0.01
    with pytest.raises(ValueError, match="a name for each"):
        tree.draw(tmp_path / "tree.png", {})
    small = ClassTree.build([[1.0, 0], [1, 1], [0, 1], [0, 2]], [0, 0, 2, 2])
    small.draw(tmp_path / "small.svg", ["wren", "no image of this one", "owl"])
    drawn = (tmp_path / "small.svg").read_text()
    assert "<svg" in drawn and "-- owl --" in drawn and "-- no image" not in drawn


@pytest.mark.parametrize(
    "embeddings, labels, options, message",
    [
        ([[1.0, 0], [np.nan, 1]], [0, 0], {}, r"row 1 \(class 0\)"),
        ([[1.0, 0], [0.0, 0]], [0, 0], {}, "no direction"),
        ([[1.0, 0], [0.0, 1]], [0, 1], {}, "two or more images"),
        ([[1.0, 0], [0.0, 1]], [0], {}, "N labels"),
        ([], [], {}, "at least one"),
        ([[1.0, 0], [0.0, 1]], [0.0, 0.0], {}, "integer class ids"),
        ([[1.0, 0], [0.0, 1]], [0, 0], {"linkage": "ward"}, "linkage='ward'"),
        ([[1.0, 0], [0.0, 1]], [0, 0], {"levels": 0}, "`levels` of at least 1.*: 0"),
        ([[1.0, 0], [0.0, 1]], [0, 0], {"levels": "16"}, "`levels` of at least 1.*: .16."),
        ([[1.0, 0], [0.0, 1]], [0, 0], {"levels": float("nan")}, "`levels` of at least 1.*: nan"),
        ([[1.0, 0], [0.0, 1]], [[0, 0]], {}, r"or \(N, 1\)"),
    ],
)
def test_wrong_inputs(embeddings, labels, options, message):
    with pytest.raises(ValueError, match=message):
        ClassTree.build(embeddings, labels, **options)


def test_unknown_classes_and_too_many_neighbours():
    tree = ClassTree.build(*DEGENERATE["two classes"])
    with pytest.raises(ValueError, match="Class 5 is not in the tree"):
        tree.distances([3, 8], [3, 5])
    with pytest.raises(ValueError, match="below 2"):
        tree.nearest(2)
    assert "2 classes" in repr(tree)


def test_ties_do_not_hang_on_rounding():
    # of classes at right angles, all distances are 2, which is the threshold of level 8
    labels = np.arange(40) // 2
    expected = ClassTree.build(np.eye(20)[labels], labels)
    assert expected.num_nodes()[8:10] == [20, 1]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        turned = np.linalg.qr(rng.standard_normal((37, 37)))[0][:20]
        tree = ClassTree.build(turned[labels], labels)
        assert_array_equal(tree.nodes, expected.nodes)
        assert_array_equal(tree.nearest(19), expected.nearest(19))
        # and of classes that coincide 0, which is the threshold of level 0
        collapsed = ClassTree.build(np.tile(rng.standard_normal(513), (40, 1)), labels)
        assert collapsed.num_nodes()[:2] == [20, 1]
        assert_array_equal(collapsed.nearest(3)[:2], [[1, 2, 3], [0, 2, 3]])
