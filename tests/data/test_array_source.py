"""Arrays of every kind as a source of batches: the same batches, or a message that says why not."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_ms
from keras_ms.arguments import class_ids
from keras_ms.data.balanced_batches import balanced_batches
from keras_ms.htl.batches import NeighbourIndices, neighbour_batches

LABELS = np.arange(24) % 6
ROWS = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
SIZES = {"classes_per_batch": 3, "images_per_class": 2}


def drawn(source, number=4, **options):
    dataset = balanced_batches(source, **SIZES, **options)
    return [(rows.numpy(), labels.numpy()) for rows, labels in itertools.islice(dataset, number)]


def assert_same(source, expected, **options):
    for (rows, labels), (its_rows, its_labels) in zip(drawn(source, **options), expected):
        np.testing.assert_array_equal(rows, its_rows)
        np.testing.assert_array_equal(labels, its_labels)
        assert rows.dtype == its_rows.dtype


def of_torch(rows, labels):
    torch = pytest.importorskip("torch")
    return torch.tensor(rows, requires_grad=True), torch.tensor(labels)


def of_jax(rows, labels):
    jax = pytest.importorskip("jax")
    return jax.numpy.asarray(rows), jax.numpy.asarray(labels)


def of_pandas(rows, labels):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows)
    frame["label"] = labels
    return frame[list(range(5))], frame["label"]


@pytest.mark.parametrize(
    "convert",
    [
        lambda rows, labels: (tf.constant(rows), tf.constant(labels)),
        lambda rows, labels: (tf.Variable(rows), tf.Variable(labels)),
        lambda rows, labels: (keras.ops.convert_to_tensor(rows), labels.tolist()),
        lambda rows, labels: ([list(row) for row in rows.astype("float64")], list(labels)),
        of_torch, of_jax, of_pandas,
    ],
    ids=["tensorflow", "variable", "keras", "lists", "torch", "jax", "pandas"],
)  # fmt: skip
def test_every_kind_of_array_gives_the_same_batches(convert):
    source = convert(ROWS, LABELS)
    rows = ROWS.astype("float64") if isinstance(source[0], list) else ROWS
    assert_same(source, drawn((rows, LABELS)))


def test_a_memory_map_and_an_hdf5_data_set_are_read_by_the_batch(tmp_path):
    h5py = pytest.importorskip("h5py")
    np.save(tmp_path / "rows.npy", ROWS)
    expected = drawn((ROWS, LABELS))
    assert_same((np.load(tmp_path / "rows.npy", mmap_mode="r"), LABELS), expected)
    views = np.stack([ROWS, ROWS + 1, ROWS + 2])
    # a class of two images, of which three are wanted: repeated in the batch
    few = np.repeat(np.arange(12), 2)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["rows"], file["views"], file["labels"] = ROWS, views, LABELS
        assert_same((file["rows"], file["labels"]), expected)
        assert_same((file["views"], LABELS), drawn((views, LABELS), views=True), views=True)
        for source in ((file["rows"], few), (ROWS, few)):
            batches = balanced_batches(source, classes_per_batch=2, images_per_class=3)
            rows, labels = next(iter(batches))
            assert (ROWS[:, None] == rows.numpy()).all(-1).any(0).all()
            repeated = rows.numpy()
        np.testing.assert_array_equal(repeated, next(iter(batches))[0])
        data_set = file["rows"]
        largest = []
        read = h5py.Dataset.__getitem__

        def counted(self, where):
            found = read(self, where)
            largest.append(len(found))
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(h5py.Dataset, "__getitem__", counted)
            drawn((data_set, LABELS))
        assert 0 < max(largest) <= 6
    with pytest.raises(ValueError, match="whose file is closed: keep the file open"):
        balanced_batches((data_set, LABELS), **SIZES)


@pytest.mark.parametrize("shape", [(24,), (24, 7), (24, 24), (24, 24, 24), (24, 5, 4, 3)])
def test_the_first_axis_counts_items_whatever_the_rank(shape):
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    for rows, labels in drawn((array, LABELS)):
        assert rows.shape == (6, *shape[1:]) and rows.dtype == np.int32
        items = rows.reshape(6, -1)[:, 0] // np.prod(shape[1:], dtype=int)
        np.testing.assert_array_equal(LABELS[items], labels)
        np.testing.assert_array_equal(rows, array[items])


@pytest.mark.parametrize("shape", [(3, 24), (3, 24, 24), (24, 24, 2), (1, 24, 2, 2)])
def test_views_are_asked_for_by_name(shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    for rows, labels in drawn((array, LABELS), views=True):
        assert rows.shape == (6, *shape[2:])
        size = np.prod(shape[2:], dtype=int)
        items = rows.reshape(6, -1)[:, 0] // size % 24
        np.testing.assert_array_equal(LABELS[items], labels)
    order = NeighbourIndices(
        LABELS, anchor_classes=2, classes_each=1, images_per_class=2, steps_per_epoch=1
    )
    rows, _ = next(iter(neighbour_batches((array, LABELS), order, views=True)))
    assert rows.shape == (4, *shape[2:])


def test_text_rows_are_bytes_of_names():
    names = [f"{number}\udce9.jpg" for number in range(24)]
    for rows, labels in drawn((names, LABELS)):
        items = [int(row[: -len(b"\xe9.jpg")]) for row in rows]
        np.testing.assert_array_equal(LABELS[items], labels)


class Strange:
    """Neither an array nor a list."""


@pytest.mark.parametrize(
    "array, options, message",
    [
        (np.zeros((3, 24, 5)), {}, r"\(N, …\) with N=24.*shape \(3, 24, 5\).*views=True"),
        (ROWS, {"views": True}, r"\(views, N, …\) with N=24.*shape \(24, 5\).*leave out views"),
        (ROWS[:20], {}, r"N=24.*shape \(20, 5\)"),
        (np.float32(1.0), {}, r"shape \(\)"),
        (np.zeros((0, 24)), {"views": True}, r"shape \(0, 24\)"),
        ([[1, 2], [3]] * 12, {}, "does not become one .*inhomogeneous"),
        (np.array([None] * 24), {}, "Expected numbers.*dtype object.*astype"),
        (np.zeros(24, "datetime64[s]"), {}, "dtype datetime64"),
        (np.zeros(24, [("x", "f4")]), {}, "Expected numbers"),
        (np.ma.masked_equal(ROWS, ROWS[0, 0]), {}, "masked: fill them"),
        (tf.ragged.constant([[1, 2], [3]] * 12), {}, "Received tensorflow.*RaggedTensor: convert"),
        (tf.data.Dataset.range(24), {}, "Received tensorflow.*: convert"),
        (tf.sparse.from_dense(ROWS), {}, "SparseTensor"),
        ((row for row in ROWS), {}, "Received generator: convert"),
        ({"x": ROWS}, {}, "Received dict: convert"),
        ("rows.npy", {}, "Received str: convert"),
        (None, {}, "Received NoneType: convert"),
        (Strange(), {}, "Received .*Strange: convert"),
        (keras.Input((5,), batch_size=24), {}, "KerasTensor"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(array, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        balanced_batches((array, LABELS), **SIZES, **options)


def test_views_of_what_has_no_array_are_refused():
    with pytest.raises(ValueError, match="`views` is for a pair"):
        balanced_batches(LABELS, views=True, **SIZES)


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype("uint8"), tf.constant(LABELS)])
def test_labels_of_every_kind(labels):
    assert_same((ROWS, labels), drawn((ROWS, LABELS)))
    assert class_ids(labels).tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.eye(6)[LABELS], r"float64 of shape \(24, 6\), one-hot rows: pass numpy.argmax"),
        (np.eye(6, dtype=int)[LABELS], "one-hot rows: pass numpy.argmax"),
        (np.stack([LABELS, LABELS], axis=1), r"int64 of shape \(24, 2\)"),
        (LABELS.astype("float64"), r"floats merge large ids.*astype\('int64'\)"),
        (np.where(LABELS == 1, np.nan, LABELS), "4 of them NaN: leave these items out"),
        (LABELS == 1, "Received: bool.*numpy.unique"),
        (np.array(list("abcdef"))[LABELS], "no numbers: number the names by numpy.unique"),
        ([[0, 1], [2]] * 12, "does not become an array .*inhomogeneous"),
        (LABELS.astype("uint64") + 2**63, "fit int64. Received: 9223372036854775813"),
        ("labels.csv", "Received str"),
        ({"a": 1}, "Received dict"),
        (tf.data.Dataset.range(24), "Received tensorflow"),
        (iter(LABELS), "Received .*iterator"),
    ],
)
def test_labels_that_are_no_class_ids_are_refused(labels, message):
    for source in (labels, (ROWS, labels)):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            balanced_batches(source, **SIZES)


@pytest.mark.parametrize(
    "takes",
    [
        lambda labels: keras_ms.balanced_batches((ROWS, labels)),
        lambda labels: keras_ms.recall_at_k(ROWS, labels),
        lambda labels: keras_ms.MultiSimilarityLoss()(labels, ROWS),
        lambda labels: keras_ms.ImageList(["a"] * 24, labels, "abcdef", ["test"] * 24),
    ],
)
def test_labels_under_a_mask_are_no_labels(takes):
    masked = np.ma.masked_array(LABELS, mask=np.arange(24) < 3)
    with pytest.raises(ValueError, match="without a mask. Received 3 masked of 24"):
        takes(masked)
