import dataclasses
import itertools

import keras
import numpy as np
import pytest

from keras_ms.curriculum.batches import (
    curriculum_balanced_batches,
    curriculum_batches,
    shuffled_indices,
)
from keras_ms.curriculum.subsets import curriculum_subsets
from keras_ms.curriculum.table import read_curriculum, write_curriculum
from keras_ms.data.image_list import ImageList
from keras_ms.optimizers import StageSchedule

LABELS = np.repeat(np.arange(6), 8)
# of each class four clean, two noisy, two highly noisy images
SUBSET = np.tile(np.array([0, 0, 0, 0, 1, 1, 2, 2], np.int8), 6)
SIZES = {"classes_per_batch": 3, "images_per_class": 2, "steps_per_stage": 4}


def taken(dataset, number):
    return [tuple(part.numpy() for part in batch) for batch in itertools.islice(dataset, number)]


def streams():
    return {
        "balanced": lambda **more: curriculum_balanced_batches(LABELS, SUBSET, **SIZES, **more),
        "shuffled": lambda **more: curriculum_batches(
            LABELS, SUBSET, batch_size=5, steps_per_stage=4, **more
        ),
    }


@pytest.mark.parametrize("kind", ["balanced", "shuffled"])
def test_each_stage_adds_its_subset_with_its_weight(kind):
    for step, (rows, labels, weights) in enumerate(taken(streams()[kind](), 16)):
        stage = min(step // 4, 2)
        assert SUBSET[rows].max() <= stage
        np.testing.assert_array_equal(labels, LABELS[rows])
        np.testing.assert_array_equal(weights, np.where(SUBSET[rows] == 0, 1, 0.5))
    rows = np.concatenate([rows for rows, _, _ in taken(streams()[kind](), 40)[8:]])
    assert set(SUBSET[rows]) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["balanced", "shuffled"])
def test_a_stream_goes_on_from_any_step(kind):
    whole = taken(streams()[kind](seed=3), 36)
    for start in (3, 4, 9, 30):
        rest = taken(streams()[kind](seed=3, start_step=start), 6)
        for one, other in zip(whole[start:], rest):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)
    different = taken(streams()[kind](seed=4, start_step=30), 6)
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(rest, different))


@pytest.mark.parametrize("kind", ["balanced", "shuffled"])
def test_each_stage_begins_with_all_its_images_once(kind):
    # a stage of 9 batches of 6 ends in the middle of a pass through its 24, 36 or 48 images
    make, shape = {
        "balanced": (curriculum_balanced_batches, {"classes_per_batch": 3, "images_per_class": 2}),
        "shuffled": (curriculum_batches, {"batch_size": 6}),
    }[kind]
    batches = taken(make(LABELS, SUBSET, steps_per_stage=9, **shape), 9 * 3)
    orders = []
    for stage, images in enumerate((24, 36, 48)):
        rows = np.concatenate([rows for rows, _, _ in batches[9 * stage :][: images // 6]])
        assert sorted(rows) == list(np.flatnonzero(SUBSET <= stage))
        orders.append([row for row in rows if SUBSET[row] == 0])
    # in another order each time
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.slow
def test_all_sources_draw_the_same():
    rows = taken(curriculum_balanced_batches(LABELS, SUBSET, **SIZES), 10)
    features = np.arange(48, dtype=np.float32)[:, None]
    images = np.broadcast_to(np.arange(48, dtype=np.uint8)[:, None, None, None], (48, 4, 4, 1))
    image_list = ImageList(
        [f"{n}.png" for n in range(48)], LABELS, list("abcdef"), ["train"] * 48, images=images
    )
    views = np.stack([features, features])
    for source, options in (
        ((features, LABELS), {}),
        ((views, LABELS), {"views": True}),
        (image_list, {"crop_scale": None, "flip": False}),
    ):
        found = taken(curriculum_balanced_batches(source, SUBSET, **SIZES, **options), 10)
        for (row, label, weight), (item, its_label, its_weight) in zip(rows, found, strict=True):
            np.testing.assert_array_equal(item.reshape(len(item), -1)[:, 0], row)
            np.testing.assert_array_equal(its_label, label)
            np.testing.assert_array_equal(its_weight, weight)
    for source, options in (
        ((features, LABELS), {}),
        (image_list, {"crop_scale": None, "flip": False}),
    ):
        found = taken(
            curriculum_batches(source, SUBSET, batch_size=5, steps_per_stage=4, **options), 9
        )
        for item, label, weight in found:
            row = item.reshape(5, -1)[:, 0].astype(int)
            np.testing.assert_array_equal(LABELS[row], label)
            np.testing.assert_array_equal(np.where(SUBSET[row] == 0, 1, 0.5), weight)


def test_shards_share_the_batch():
    whole = taken(curriculum_balanced_batches(LABELS, SUBSET, **SIZES), 9)
    parts = [
        taken(curriculum_balanced_batches(LABELS, SUBSET, **SIZES, shard=(index, 3)), 9)
        for index in range(3)
    ]
    for batch, *shares in zip(whole, *parts):
        for column in range(3):
            together = np.concatenate([share[column] for share in shares])
            np.testing.assert_array_equal(together, batch[column])


def test_a_single_image_waits_for_its_stage(caplog):
    subset = SUBSET.copy()
    subset[1:4] = 1  # class 0 has one clean image
    with caplog.at_level("INFO", "keras_ms"):
        batches = taken(curriculum_balanced_batches(LABELS, subset, **SIZES), 12)
    assert "Stage 1 leaves out 1 classes" in caplog.text
    assert all(0 not in labels for _, labels, _ in batches[:4])
    assert any(0 in labels for _, labels, _ in batches[4:])


def test_every_image_of_a_stage_is_drawn_before_one_is_again():
    stream = shuffled_indices(10, 4, seed=1)
    drawn = np.concatenate([next(stream) for _ in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert not np.array_equal(drawn[:10], drawn[10:])
    assert len(next(shuffled_indices(3, 8))) == 8


def test_fit_goes_through_the_stages_and_reads_the_weights():
    features = keras.utils.to_categorical(LABELS).astype(np.float32)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss)
    batches = curriculum_batches((features, LABELS), SUBSET, batch_size=8, steps_per_stage=3)
    history = model.fit(batches, steps_per_epoch=3, epochs=3, shuffle=False, verbose=0).history[
        "loss"
    ]
    per_image = keras.ops.convert_to_numpy(
        keras.losses.sparse_categorical_crossentropy(LABELS, model(features), from_logits=True)
    )
    for epoch in range(3):
        steps = taken(
            curriculum_batches(LABELS, SUBSET, batch_size=8, steps_per_stage=3), 3 * epoch + 3
        )[3 * epoch :]
        # Keras divides a weighted loss by the number of images
        expected = np.mean([np.mean(per_image[rows] * weights) for rows, _, weights in steps])
        np.testing.assert_allclose(history[epoch], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"subset": SUBSET[:5]}, "for each of 48 images"),
        ({"steps_per_stage": 0}, "steps_per_stage"),
        ({"start_step": -1}, "start_step"),
        ({"classes_per_batch": 7}, "Stage 1 with 24 images"),
        ({"image_size": 8}, "are for an ImageList"),
        ({"source": LABELS * 1.0}, "integers"),
        ({"source": (LABELS,)}, "pair"),
        ({"seed": -1}, "`seed` from 0"),
        ({"shard": (0, 2)}, "divides classes_per_batch=3"),
        ({"batch_size": 4}, "no argument batch_size"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"source": LABELS, "subset": SUBSET, **SIZES} | change
    with pytest.raises((ValueError, TypeError), match=message):
        curriculum_balanced_batches(**arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"seed": -1}, "`seed` from 0"),
        ({"steps_per_stage": None}, "steps_per_stage"),
        ({"shard": (0, 3)}, "divides batch_size=4"),
        ({"images_per_class": 2}, "no argument images_per_class"),
    ],
)
def test_wrong_arguments_of_a_classifier_are_named(change, message):
    arguments = {"source": LABELS, "subset": SUBSET, "batch_size": 4, "steps_per_stage": 1} | change
    with pytest.raises((ValueError, TypeError), match=message):
        curriculum_batches(**arguments)


def test_whole_floats_are_whole_numbers():
    sizes = {name: float(size) for name, size in SIZES.items()}
    for found, expected in (
        (
            curriculum_balanced_batches(LABELS, SUBSET, start_step=2.0, **sizes),
            curriculum_balanced_batches(LABELS, SUBSET, start_step=2, **SIZES),
        ),
        (
            curriculum_batches(LABELS, SUBSET, batch_size=4.0, steps_per_stage=6 / 3),
            curriculum_batches(LABELS, SUBSET, batch_size=4, steps_per_stage=2),
        ),
    ):
        for (rows, *_), (others, *_) in zip(taken(found, 6), taken(expected, 6), strict=True):
            np.testing.assert_array_equal(rows, others)


def test_the_schedule_starts_again():
    inner = keras.optimizers.schedules.PiecewiseConstantDecay([3, 6], [1.0, 0.1, 0.01])
    schedule = StageSchedule(inner, steps_per_stage=8, stages=3)
    found = [float(schedule(step)) for step in range(40)]
    one = [float(inner(step)) for step in range(8)]
    np.testing.assert_allclose(found[:24], one * 3)
    # the last stage goes on
    np.testing.assert_allclose(found[24:], 0.01)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    np.testing.assert_allclose([float(again(step)) for step in range(40)], found)


def test_the_schedule_is_saved_with_a_model_and_compiled(tmp_path):
    cosine = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=4)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(StageSchedule(cosine, 4, 2))
    model.compile(optimizer, "mse", jit_compile=True)
    # four steps a stage: the second one has just begun, then it has ended
    for expected in (0.1, 0.0):
        model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=2, verbose=0)
        np.testing.assert_allclose(float(model.optimizer.learning_rate), expected, atol=1e-8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer._learning_rate, StageSchedule)


@pytest.mark.parametrize(
    "change",
    [{"schedule": 0.1}, {"steps_per_stage": 0}, {"stages": 0}]
    + [{"steps_per_stage": value} for value in (None, "4", 2.5, float("nan"), float("inf"))],
)
def test_a_wrong_schedule_is_named(change):
    cosine = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=4)
    arguments = {"schedule": cosine, "steps_per_stage": 4, "stages": 3} | change
    with pytest.raises(ValueError, match="LearningRateSchedule|at least 1"):
        StageSchedule(**arguments)


def listed(folder="/photos"):
    paths = [f"{folder}/train/{name}/{n}.jpg" for name in ("owl", "crow, black") for n in range(6)]
    return ImageList(paths, np.arange(12) // 6, ["owl", "crow, black"], ["train"] * 12)


def found_for(images):
    features = np.random.default_rng(0).standard_normal((len(images), 4))
    return curriculum_subsets(features, images.labels)


def test_a_table_is_read_back_wherever_the_images_moved(tmp_path):
    images, table = listed(), tmp_path / "curriculum.csv"
    found = found_for(images)
    write_curriculum(table, found, images)
    assert table.read_text().splitlines()[0] == "path,label,subset,density,delta,centre"
    assert table.read_text().splitlines()[1].startswith("owl/0.jpg,owl,")
    for moved in (images, listed("elsewhere/there"), listed(str(tmp_path))):
        for written, read in zip(found, read_curriculum(table, moved), strict=True):
            np.testing.assert_array_equal(written, read)
            assert written.dtype == read.dtype
    # in the list's order, whatever the table's
    order = np.random.default_rng(0).permutation(12)
    mixed = dataclasses.replace(images, paths=images.paths[order], labels=images.labels[order])
    np.testing.assert_array_equal(read_curriculum(table, mixed).density, found.density[order])


def test_names_of_images_in_memory_are_kept(tmp_path):
    images = ImageList(
        ["Greek/alpha 1", "Greek/alpha 2"],
        [0, 0],
        ["Greek/alpha"],
        ["train"] * 2,
        images=np.zeros((2, 3, 3, 1), np.uint8),
    )
    write_curriculum(tmp_path / "table.csv", found_for(images), images)
    assert "Greek/alpha 2" in (tmp_path / "table.csv").read_text()
    assert len(read_curriculum(tmp_path / "table.csv", images).subset) == 2


def test_what_is_wrong_with_a_table_is_named(tmp_path):
    images, table = listed(), tmp_path / "curriculum.csv"
    write_curriculum(table, found_for(images), images)
    few = dataclasses.replace(
        images, paths=images.paths[:6], labels=images.labels[:6], split=images.split[:6]
    )
    with pytest.raises(ValueError, match="6 images that images has not.*allow_more"):
        read_curriculum(table, few)
    assert len(read_curriculum(table, few, allow_more=True).subset) == 6
    with pytest.raises(ValueError, match="of another class there.*crow, black, here owl"):
        read_curriculum(table, dataclasses.replace(images, labels=images.labels * 0))
    with pytest.raises(FileNotFoundError, match="keras-ms curriculum"):
        read_curriculum(tmp_path / "none.csv", images)
    with pytest.raises(ValueError, match="of the 12 images"):
        write_curriculum(table, found_for(few), images)
    lines = table.read_text().splitlines()
    for text, message in (
        ("\n".join(lines[:-1]), "Without one: .*5.jpg"),
        ("\n".join([*lines, lines[3]]), "Twice: owl/2.jpg"),
        ("\n".join([lines[0], *lines[2:], "owl/0.jpg,owl,clean,1.0,1.0,0"]), "line 13"),
        ("\n".join([lines[0], *lines[2:], "owl/0.jpg,owl,0,1.0"]), "line 13"),
        ("\n".join([*lines[:-1], lines[-1] + ",1"]), "Expected 6 values in line 13.*: 7"),
        ("\n".join([*lines[:-1], '"owl/0.jpg']), "CSV file in UTF-8. Line 13 .*end of data"),
        ("\n".join([lines[0], *lines[2:], "owl/0.jpg,owl,0,nan,1.0,0"]), "numbers from 0"),
        ("\n".join([lines[0], *lines[2:], "owl/0.jpg,owl,0,1.0,inf,0"]), "numbers from 0"),
        ("\n".join([lines[0], *lines[2:], "owl/0.jpg,owl,0,-1.0,1.0,0"]), "numbers from 0"),
        ("path,label\n", "columns"),
        ("", "no line"),
    ):
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_curriculum(table, images)


def test_a_table_that_a_spreadsheet_wrote_is_read(tmp_path):
    images, table = listed(), tmp_path / "curriculum.csv"
    found = found_for(images)
    write_curriculum(table, found, images)
    table.write_text(table.read_text(), encoding="utf-8-sig")
    np.testing.assert_array_equal(read_curriculum(table, images).subset, found.subset)


def test_images_that_a_table_cannot_tell_apart_are_not_written(tmp_path):
    images = ImageList(["a.jpg", "b.jpg", "a.jpg"], [0, 0, 0], ["owl"], ["train"] * 3)
    with pytest.raises(ValueError, match="3 images of images once.*: a.jpg"):
        write_curriculum(tmp_path / "table.csv", found_for(images), images)
    assert not (tmp_path / "table.csv").exists()


def test_stages_of_a_table_with_fewer_subsets():
    batches = curriculum_batches(
        LABELS[:4], np.zeros(4, np.int8), batch_size=2, steps_per_stage=1, stages=3
    )
    for _, _, weights in taken(batches, 5):
        np.testing.assert_array_equal(weights, 1)
