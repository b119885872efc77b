"""Anchor-neighbour batches, and a fit in which loss and batches follow the class tree."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

from keras_ms.callbacks import RecallAtK
from keras_ms.curriculum.batches import curriculum_balanced_batches
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.data.image_list import ImageList
from keras_ms.htl.batches import NeighbourIndices, neighbour_batches, neighbour_indices
from keras_ms.htl.callback import RebuildClassTree
from keras_ms.htl.class_tree import ClassTree
from keras_ms.htl.loss import HierarchicalTripletLoss


def circle(classes=12, images=6, seed=0):
    """Classes around half a circle: the nearest of each are those beside it."""
    rng = np.random.default_rng(seed)
    angles = np.repeat(np.linspace(0, np.pi, classes), images) + 0.01 * rng.normal(
        size=classes * images
    )
    ids = 100 + 7 * np.arange(classes)
    order = rng.permutation(classes * images)
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return embeddings[order].astype("float32"), np.repeat(ids, images)[order]


def batches_of(stream, number):
    return [next(stream) for _ in range(number)]


def test_a_batch_is_anchors_with_their_nearest_classes():
    embeddings, labels = circle()
    tree = ClassTree.build(embeddings, labels)
    nearest = np.searchsorted(tree.class_ids, tree.nearest(2))
    stream = neighbour_indices(labels, nearest, 3, 4, classes_per_batch=9, seed=1)
    whole = 0
    for batch in batches_of(stream, 40):
        groups = labels[batch].reshape(9, 4)
        assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 9
        assert len(set(batch)) == 36
        # where no neighbourhoods overlap, they are all there, anchor first
        classes = np.searchsorted(tree.class_ids, groups[:, 0]).reshape(3, 3)
        whole += all((nearest[anchor] == others).all() for anchor, *others in classes)
        neighbours = set(nearest[classes[0, 0]])
        assert neighbours <= set(classes.reshape(-1))
    assert whole > 3


def test_anchors_and_images_are_dealt_like_cards():
    embeddings, labels = circle()
    nearest = np.empty((12, 0), np.int64)
    batches = batches_of(neighbour_indices(labels, nearest, 4, 3, classes_per_batch=4), 9)
    # 12 classes are anchors once in 3 batches, and their 6 images are used once in 6 batches
    for start in (0, 3, 6):
        assert len({label for batch in batches[start : start + 3] for label in labels[batch]}) == 12
    assert sorted(np.concatenate(batches[:6])) == list(range(72))
    again = neighbour_indices(labels, nearest, 4, 3, classes_per_batch=4, start_step=5)
    assert_array_equal(labels[next(again)], labels[batches[5]])


def test_overlapping_neighbourhoods_are_filled_up():
    _, labels = circle(classes=5)
    nearest = np.array([[1, 2], [0, 2], [0, 1], [0, 1], [0, 1]])
    stream = neighbour_indices(labels, nearest, 2, 2, classes_per_batch=5)
    filled = set()
    for batch in batches_of(stream, 50):
        assert len(set(labels[batch])) == 5
    few = neighbour_indices(labels, nearest[:, :1], 2, 2, classes_per_batch=4)
    for batch in batches_of(few, 50):
        classes = np.searchsorted(np.unique(labels), labels[batch][::2])
        assert len(set(classes)) == 4
        filled.add(classes[-1])
    # class 0 is an anchor or a neighbour in every batch
    assert filled == {1, 2, 3, 4}


def test_the_dataset_is_an_epoch_that_follows_the_tree():
    embeddings, labels = circle()
    order = NeighbourIndices(
        labels, anchor_classes=2, classes_each=3, images_per_class=3, steps_per_epoch=4, seed=3
    )
    dataset = neighbour_batches((embeddings, labels), order)
    assert int(dataset.cardinality()) == 4

    def read():
        found = [(rows.numpy(), ids.numpy()) for rows, ids in dataset]
        for rows, ids in found:
            assert rows.shape == (18, 2) and ids.dtype == np.int64
        return np.stack([ids for _, ids in found])

    first, second = read(), read()
    assert (first != second).any()  # without a step, epochs go on
    tree = ClassTree.build(embeddings, labels)
    order.follow(tree, first_step=4)
    followed = read()
    assert (followed == read()).all() and (followed != second).any()
    assert (followed[:, 0] == second[:, 0]).all()  # the same anchors, other neighbours
    groups = np.searchsorted(tree.class_ids, followed[:, ::3]).reshape(4, 2, 3)
    nearest = np.searchsorted(tree.class_ids, tree.nearest(2))
    assert (groups[:, 0, 1:] == nearest[groups[:, 0, 0]]).all()
    order.follow(None, first_step=0)
    assert (read() == first).all()


def test_an_epoch_that_is_not_read_to_its_end_is_begun_again():
    _, labels = circle()
    # whole floats, as a division gives them
    order = NeighbourIndices(
        labels, anchor_classes=2.0, classes_each=3.0, images_per_class=3.0, steps_per_epoch=3.0
    )
    step, begun = next(order.epoch())
    assert step == 0
    again = list(order.epoch())
    assert [step for step, _ in again] == [0, 1, 2] and (again[0][1] == begun).all()
    # nobody asked for a fourth batch
    assert [step for step, _ in zip(order.epoch(), range(3))] and order._first_step == 6
    order.follow(None, first_step=9)
    assert [[step for step, _ in order.epoch()] for _ in range(2)] == [[9, 10, 11]] * 2
    with pytest.raises(ValueError, match="`images_per_class` of at least 2.*2.5"):
        NeighbourIndices(labels, images_per_class=2.5, steps_per_epoch=3)


def test_the_nearest_classes_of_a_tree_are_searched_once(monkeypatch):
    embeddings, labels = circle()
    order = NeighbourIndices(labels, anchor_classes=2, classes_each=3, steps_per_epoch=3)
    searched = []
    nearest = ClassTree.nearest
    monkeypatch.setattr(
        ClassTree, "nearest", lambda tree, number: searched.append(tree) or nearest(tree, number)
    )
    first, second = ClassTree.build(embeddings, labels), ClassTree.build(embeddings, labels)
    for step, tree in enumerate((first, first, second, second, first)):
        order.follow(tree, first_step=3 * step)
    assert searched == [first, second, first]


def test_images_shards_and_steps():
    rng = np.random.default_rng(0)
    labels = np.repeat(range(8), 4)
    images = rng.integers(256, size=(32, 12, 12, 1), dtype=np.uint8)
    source = ImageList(list(map(str, range(32))), labels, range(8), ["train"] * 32, images)

    def order():
        return NeighbourIndices(
            labels, anchor_classes=2, classes_each=2, images_per_class=3, steps_per_epoch=3, seed=5
        )

    def distort(images, seed):
        noise = tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed, maxval=50.0)
        return tf.cast(images, tf.float32) + noise

    options = {"crop_scale": None, "flip": False}
    whole = list(neighbour_batches(source, order(), **options))
    assert len(whole) == 3 and whole[0][0].shape == (12, 12, 12, 3)
    shards = [list(neighbour_batches(source, order(), shard=(i, 2), **options)) for i in range(2)]
    for step, (pictures, ids) in enumerate(whole):
        assert_array_equal(np.concatenate([shard[step][0] for shard in shards]), pictures)
        assert_array_equal(np.concatenate([shard[step][1] for shard in shards]), ids)
    # what augments a batch is decided by its step, not by the reading
    steered = order()
    noisy = neighbour_batches(source, steered, distort=distort, **options)
    steered.follow(None, first_step=6)
    once, twice = list(noisy), list(noisy)
    steered.follow(None, first_step=9)
    later = list(noisy)
    for (a, _), (b, _), (c, _) in zip(once, twice, later):
        assert (a.numpy() == b.numpy()).all() and (a.numpy() != c.numpy()).any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"anchor_classes": 0}, "anchor_classes"),
        ({"classes_each": 1.5}, "classes_each"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"steps_per_epoch": "3"}, "steps_per_epoch"),
        ({"images_per_class": 1}, "images_per_class"),
        ({"anchor_classes": 5, "classes_each": 5}, "classes_per_batch=25"),
        ({"tree": ClassTree.build(np.eye(2)[[0, 0, 1]], [100, 100, 101])}, "class 101"),
    ],
)
def test_orders_that_cannot_work(options, message):
    _, labels = circle()
    with pytest.raises(ValueError, match=message):
        NeighbourIndices(labels, **{"steps_per_epoch": 3, "anchor_classes": 2, **options})


def test_a_source_of_other_labels():
    embeddings, labels = circle()
    order = NeighbourIndices(labels, anchor_classes=2, classes_each=2, steps_per_epoch=3)
    with pytest.raises(ValueError, match="from the labels of this source"):
        neighbour_batches((embeddings, labels[::-1]), order)


# A fit that rebuilds the tree.


def training(folder=None, **options):
    """(model, arguments of fit) of a small head on features, tree and batches included."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(1)
    labels = np.repeat(range(10), 6)
    centres = rng.normal(size=(10, 8))
    features = (centres[labels] + 0.5 * rng.normal(size=(60, 8))).astype("float32")
    order = NeighbourIndices(
        labels, anchor_classes=2, classes_each=3, images_per_class=3, steps_per_epoch=4
    )
    loss = HierarchicalTripletLoss()
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.compile(keras.optimizers.Adam(0.02), loss=loss, **options)
    rebuild = RebuildClassTree(loss, features, labels, order, folder=folder)
    return model, {
        "x": neighbour_batches((features, labels), order),
        "callbacks": [rebuild],
        "verbose": 0,
        "shuffle": False,
    }


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"jit_compile": False, "steps_per_execution": 2}],
    ids=["eagerly", "two steps at a time"],
)
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, options):
    model, arguments = training(tmp_path, **options)
    losses = model.fit(epochs=4, **arguments).history["loss"]
    expected = model.get_weights()
    tree = arguments["callbacks"][0].tree
    assert_array_equal(ClassTree.load(tmp_path / "class_tree.npz").nodes, tree.nodes)

    model, arguments = training(**options)
    first = model.fit(epochs=2, **arguments).history["loss"]
    model.save(tmp_path / "model.keras")
    # as another process would: another loss, another order, nothing but the saved model
    _, arguments = training(**options)
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    resumed.run_eagerly = options.get("run_eagerly", False)
    arguments["callbacks"][0].loss = resumed.loss
    second = resumed.fit(epochs=4, initial_epoch=2, **arguments).history["loss"]
    assert first + second == losses
    for got, wanted in zip(resumed.get_weights(), expected, strict=True):
        assert_array_equal(got, wanted)


@pytest.mark.slow
def test_every_epoch_sees_its_own_tree():
    model, arguments = training(run_eagerly=True)
    rebuild = arguments["callbacks"][0]
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            order = rebuild.order
            nearest = np.searchsorted(rebuild.tree.class_ids, rebuild.tree.nearest(2))
            assert_array_equal(order._nearest, nearest)
            assert rebuild.loss.tree is rebuild.tree and order._first_step == 4 * epoch
            embeddings = self.model.predict(rebuild.images, verbose=0)
            wanted = ClassTree.build(embeddings, rebuild.labels)
            # embedded in other batches, and so summed in other orders
            assert_allclose(rebuild.tree.spreads, wanted.spreads, atol=1e-6)
            seen.append(rebuild.tree)

    arguments["callbacks"].append(Watch())
    model.fit(epochs=3, **arguments)
    assert len({tree.thresholds[0] for tree in seen}) == 3

    rebuild.every, seen[:] = 2, []
    arguments["callbacks"][1:] = [
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append(rebuild.tree))
    ]
    model.fit(epochs=4, **arguments)
    assert seen[0] is seen[1] and seen[1] is not seen[2] and seen[2] is seen[3]


@pytest.mark.slow
@pytest.mark.release
def test_margins_of_the_first_tree_with_batches_by_the_latest(tmp_path):
    model, arguments = training(tmp_path, run_eagerly=True)
    rebuild = arguments["callbacks"][0]
    rebuild.margins, seen = "first", []

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            nearest = np.searchsorted(rebuild.tree.class_ids, rebuild.tree.nearest(2))
            assert_array_equal(rebuild.order._nearest, nearest)
            seen.append((rebuild.loss.tree, rebuild.tree))

    arguments["callbacks"].append(Watch())
    expected = model.fit(epochs=3, **arguments).history["loss"]
    assert all(of_loss is seen[0][1] for of_loss, _ in seen)
    assert len({latest.thresholds[0] for _, latest in seen}) == 3
    first = ClassTree.load(tmp_path / "first_class_tree.npz")
    assert_array_equal(first.thresholds, seen[0][1].thresholds)
    latest = ClassTree.load(tmp_path / "class_tree.npz")
    assert_array_equal(latest.thresholds, seen[2][1].thresholds)

    # another process goes on: the loss keeps the tree that it is given before
    model, arguments = training(run_eagerly=True)
    arguments["callbacks"][0].margins = "first"
    losses = model.fit(epochs=1, **arguments).history["loss"]
    rebuild = arguments["callbacks"][0]
    rebuild.loss.assign_tree(first)
    losses += model.fit(epochs=3, initial_epoch=1, **arguments).history["loss"]
    assert losses == expected and rebuild.loss.tree is first

    # what it began with is not replaced by what it has become
    model, arguments = training(tmp_path, run_eagerly=True)
    arguments["callbacks"][0].margins = "first"
    with pytest.raises(ValueError, match="first tree before epoch 2.*assign_tree"):
        model.fit(epochs=2, initial_epoch=1, **arguments)
    kept = ClassTree.load(tmp_path / "first_class_tree.npz")
    assert_array_equal(kept.thresholds, first.thresholds)


@pytest.mark.slow
@pytest.mark.release
def test_rebuild_without_loss_or_order_and_from_a_dataset():
    model, arguments = training(jit_compile=False)
    rebuild = arguments["callbacks"][0]
    features, labels = rebuild.images, rebuild.labels
    # made, but not passed on: no margins are invented
    history = model.fit(arguments["x"], shuffle=False, verbose=0).history
    assert np.isnan(history["loss"]).all() and rebuild.loss.tree is None
    with pytest.raises(ValueError, match="no class tree yet"):
        rebuild.loss(labels, features)
    dataset = tf.data.Dataset.from_tensor_slices((features, labels)).batch(16)
    for_batches = RebuildClassTree(None, dataset, labels, rebuild.order)
    arguments["callbacks"] = [for_batches, rebuild]
    model.fit(epochs=1, **arguments)
    assert_array_equal(for_batches.tree.nodes, rebuild.tree.nodes)
    with pytest.raises(ValueError, match="each of 60 labels"):
        arguments["callbacks"] = [RebuildClassTree(None, dataset.take(1), labels)]
        model.fit(**arguments)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, "`every` of at least 1.*: 0"),
        ({"every": float("nan")}, "`every` of at least 1.*: nan"),
        ({"levels": "16"}, "`levels` of at least 1.*: .16."),
        ({"levels": 0}, "`levels` of at least 1.*: 0"),
        ({"levels": -1}, "`levels` of at least 1.*: -1"),
        ({"linkage": "ward"}, "linkage='ward'"),
        ({"margins": "last"}, "margins='last'"),
        ({"loss": keras.losses.MeanSquaredError()}, "to be a keras_ms.HierarchicalTripletLoss"),
        ({"labels": [0.0, 0.0, 1.0, 1.0]}, "integer class ids.*float64"),
        ({"labels": [[0, 0], [1, 1]]}, r"or \(N, 1\)"),
    ],
)
def test_callbacks_that_cannot_work(options, message):
    given = {"loss": HierarchicalTripletLoss(), "labels": [0, 0, 1, 1], **options}
    with pytest.raises(ValueError, match=message):
        RebuildClassTree(images=np.eye(4), **given)


def test_training_batches_are_no_images_to_build_a_tree_from():
    labels, subset = np.repeat([0, 1], 4), np.tile([0, 0, 1, 1], 2)
    sizes = {"classes_per_batch": 2, "images_per_class": 2}
    one = balanced_batches((np.zeros((8, 3)), labels), **sizes)
    staged = curriculum_balanced_batches(labels, subset, steps_per_stage=1, **sizes)
    for endless in (one, staged):
        with pytest.raises(ValueError, match="repeats forever.*evaluation_batches"):
            RebuildClassTree(None, endless, labels)
        with pytest.raises(ValueError, match="repeats forever"):
            RecallAtK(endless)
    with pytest.raises(ValueError, match="generator, which can be read once"):
        RebuildClassTree(None, (image for image in np.zeros((8, 3))), labels)


def test_levels_and_labels_of_the_callback():
    embeddings, labels = circle()
    images = np.zeros((len(labels), 2))
    loss = HierarchicalTripletLoss(ClassTree.build(embeddings, labels, levels=8))
    assert RebuildClassTree(loss, images, labels).levels == 8
    assert RebuildClassTree(None, images, labels).levels == 16
    with pytest.raises(ValueError, match="`levels` of 8.*levels=16"):
        RebuildClassTree(loss, images, labels, levels=16)
    # a column of labels, and whole floats
    rebuild = RebuildClassTree(None, images, labels[:, None], levels=16.0, every=2.0)
    assert_array_equal(rebuild.labels, labels)
