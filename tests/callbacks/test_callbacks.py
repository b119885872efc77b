import csv
import itertools
import math
import os
import subprocess
import sys
import textwrap
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ms.callbacks import ExplainZeroLoss, KeepBestWeights, RecallAtK, validation_set
from keras_ms.callbacks.training_steps import optimizer_steps
from keras_ms.evaluation.retrieval import recall_at_k
from keras_ms.losses.multi_similarity import MultiSimilarityLoss

NUM_CLASSES = 8


def rows(num_rows=80, seed=0):
    """Rows whose class shows in few of the directions: a linear map can learn to see it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % NUM_CLASSES
    centres = np.random.default_rng(99).standard_normal((NUM_CLASSES, 4))
    images = rng.standard_normal((num_rows, 24)).astype(np.float32)
    images[:, :4] = 0.4 * images[:, :4] + centres[labels]
    return images, labels


IMAGES, LABELS = rows()


def pull_together(y_true, y_pred):
    """Per-anchor loss: softmax over the batch of the similarity to one's own class."""
    unit = keras.ops.normalize(keras.ops.cast(y_pred, "float32"), axis=-1)
    similarity = 8.0 * keras.ops.matmul(unit, keras.ops.transpose(unit))
    labels = keras.ops.reshape(y_true, (-1,))
    same = keras.ops.cast(labels[:, None] == labels[None, :], "float32")
    likelihood = similarity - keras.ops.logsumexp(similarity, axis=1, keepdims=True)
    return -keras.ops.sum(same * likelihood, axis=1) / keras.ops.sum(same, axis=1)


def embedder(seed=1, **compile_options):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((24,)), keras.layers.Dropout(0.5), keras.layers.Dense(6)])
    compile_options.setdefault("optimizer", keras.optimizers.Adam(0.02))
    model.compile(loss=pull_together, **compile_options)
    return model


def fit(model, callbacks, epochs=3, **options):
    return model.fit(
        IMAGES, LABELS, batch_size=16, epochs=epochs, callbacks=callbacks, verbose=0, **options
    ).history


@pytest.mark.parametrize(
    "mode", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}]
)
def test_logs_the_recall_of_the_current_weights(mode):
    model, validation = embedder(**mode), rows(70, seed=5)
    recall = RecallAtK(validation, ks=(1, 4), batch_size=32)
    history = fit(model, [recall])
    assert list(history) == ["loss", "val_recall@1", "val_recall@4"]
    expected = recall_at_k(model(validation[0], training=False), validation[1], (1, 4))
    assert history["val_recall@1"][-1] == expected[1]
    assert history["val_recall@4"][-1] == expected[4]
    assert all(type(value) is float for value in history["val_recall@1"])
    assert history["val_recall@1"][-1] > 1 / NUM_CLASSES  # better than chance: it learned
    assert [step for step, _ in recall.history] == [0, 5, 10, 15]


def test_an_embedder_within_the_trained_model_is_measured():
    inner = embedder()
    classifier = keras.Sequential([inner, keras.layers.Dense(NUM_CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.SGD(0.5), loss)
    of_embeddings = RecallAtK((IMAGES, LABELS), embedder=inner)
    of_outputs = RecallAtK((IMAGES, LABELS), prefix="output_")
    best = KeepBestWeights(of_embeddings, restore=True)
    history = fit(classifier, [of_embeddings, best, of_outputs])
    expected = recall_at_k(inner(IMAGES, training=False), LABELS)
    assert of_embeddings.best_value == expected[1]  # the whole model's best weights came back
    assert of_embeddings.best_value == max(history["val_recall@1"])
    assert history["val_recall@1"] != history["output_recall@1"]
    assert of_embeddings.best_step == 5 * (1 + np.argmax(history["val_recall@1"]))


def test_neighbouring_callbacks_use_the_values(tmp_path):
    # without learning nothing improves: patience must end the run
    model, log = embedder(optimizer=keras.optimizers.SGD(0.0)), tmp_path / "log.csv"
    stop = keras.callbacks.EarlyStopping("val_recall@1", mode="max", patience=2)
    best = keras.callbacks.ModelCheckpoint(
        tmp_path / "best.keras", "val_recall@1", mode="max", save_best_only=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        recall = RecallAtK((IMAGES, LABELS))
        fit(model, [recall, stop, best, keras.callbacks.CSVLogger(log)], epochs=10)
    assert stop.stopped_epoch == 2
    assert best.best == recall.best_value
    assert (tmp_path / "best.keras").exists()
    logged = list(csv.DictReader(log.read_text().splitlines()))
    assert len(logged) == 3
    assert float(logged[0]["val_recall@1"]) == recall.history[0][1][1]


def test_counts_batches_where_the_optimizer_is_not_used():
    class OtherOptimizer(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(6)

        def call(self, images):
            return self.dense(images)

        def train_step(self, data):
            return {"loss": keras.ops.mean(self(data[0]))}

    model, recall = OtherOptimizer(), RecallAtK((IMAGES, LABELS), every_steps=3)
    model.compile()
    fit(model, [recall], epochs=3)
    assert [step for step, _ in recall.history] == [0, 3, 6, 9, 12, 15]


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_every_steps(steps_per_execution):
    model = embedder(steps_per_execution=steps_per_execution)
    recall = RecallAtK((IMAGES, LABELS), every_steps=4)
    history = fit(model, [recall], epochs=3)  # 5 steps each
    steps = [step for step, _ in recall.history]
    assert steps == ([0, 4, 8, 12] if steps_per_execution == 1 else [0, 4, 9, 12])
    assert history["val_recall@1"] == [recalls[1] for _, recalls in recall.history[1:]]


def test_every_steps_beyond_the_first_epoch_still_logs():
    history = fit(embedder(), [RecallAtK((IMAGES, LABELS), every_steps=7)], epochs=3)
    assert len(history["val_recall@1"]) == 3


def test_steps_go_on_in_a_second_fit():
    model, recall = embedder(), RecallAtK((IMAGES, LABELS))
    fit(model, [recall], epochs=1)
    fit(model, [recall], epochs=1)
    assert [step for step, _ in recall.history] == [0, 5, 10]
    resumed = RecallAtK((IMAGES, LABELS))
    fit(model, [resumed], epochs=1)
    assert [step for step, _ in resumed.history] == [10, 15]
    assert resumed.history[0][1] == recall.history[-1][1]


def test_the_start_is_left_out_on_request_and_where_a_run_goes_on():
    plain = RecallAtK((IMAGES, LABELS), at_start=False)
    continued = RecallAtK((IMAGES, LABELS))
    continued.best_value, continued.best_step = 0.5, 20
    fit(embedder(), [plain, continued], epochs=1)
    for recall in (plain, continued):
        assert [step for step, _ in recall.history] == [5]


def test_a_shuffling_dataset_is_measured_rightly():
    model = embedder()
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS[:, None])).shuffle(80).batch(32)
    recall = RecallAtK(dataset)
    fit(model, [recall], epochs=1)
    assert recall.history[-1][1] == recall_at_k(model(IMAGES, training=False), LABELS)


def test_other_datasets():
    class Batches(keras.utils.PyDataset):
        num_batches = 4

        def __getitem__(self, index):
            part = slice(20 * index, 20 * index + 20)
            return IMAGES[part], LABELS[part]

    model, batches = embedder(), Batches()
    same = []
    for dataset in (batches, [batches[i] for i in range(4)], (IMAGES, LABELS)):
        recall = RecallAtK(dataset)
        recall.set_model(model)
        same.append(recall.measure())
    assert same[0] == same[1] == same[2]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = embedder()
    finally:
        keras.config.set_dtype_policy("float32")
    history = fit(model, [RecallAtK((IMAGES, LABELS))], epochs=1)
    assert 0 < history["val_recall@1"][0] <= 1


def test_divergence_is_logged_as_nan_with_one_warning():
    model = embedder(optimizer=keras.optimizers.SGD(float("nan")))
    recall = RecallAtK((IMAGES, LABELS), at_start=False)
    best = KeepBestWeights(recall)
    with pytest.warns(UserWarning, match="80 of 80 embeddings hold NaN") as caught:
        history = fit(model, [recall, best], epochs=3)
    assert len([w for w in caught if "hold NaN" in str(w.message)]) == 1
    assert all(math.isnan(value) for value in history["val_recall@1"])
    assert recall.best_value is None and best.weights is None


def test_verbose_prints_one_line_for_each_measurement(capsys):
    model = embedder()
    fit(model, [RecallAtK((IMAGES, LABELS), ks=(1,))], epochs=2)
    assert capsys.readouterr().out == ""
    fit(model, [RecallAtK((IMAGES, LABELS), ks=(1,), verbose=1)], epochs=2)
    lines = capsys.readouterr().out.split("\n")
    assert [line[:18] for line in lines if line] == [
        "step 10: recall@1 ",
        "step 15: recall@1 ",
        "step 20: recall@1 ",
    ]


def endless():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(16).repeat()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": endless()}, "repeats forever"),
        ({"dataset": iter([(IMAGES, LABELS)])}, "read once"),
        ({"dataset": (IMAGES, LABELS), "every_steps": 0}, "every_steps"),
    ],
)
def test_bad_options_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecallAtK(**arguments)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "empty"),
        ([IMAGES], "batches"),
        ((IMAGES, LABELS[:5]), "one length"),
        ((IMAGES, np.arange(80)), "none with one"),
    ],
)
def test_bad_datasets_are_explained(dataset, message):
    with pytest.raises(ValueError, match=message):
        fit(embedder(), [RecallAtK(dataset)], epochs=1)


def test_a_model_without_one_embedding_per_image_is_explained():
    model = keras.Sequential([keras.Input((24,)), keras.layers.Reshape((4, 6))])
    recall = RecallAtK((IMAGES, LABELS))
    recall.set_model(model)
    with pytest.raises(ValueError, match=r"Received: \(64, 4, 6\)"):
        recall.measure()


@pytest.mark.parametrize("logs", [{"loss": 0.0}, {"loss": 0.01, "mined_anchors": 0.0}])
def test_a_loss_of_zero_is_explained_once(logs):
    callback = ExplainZeroLoss()
    with pytest.warns(UserWarning, match="balanced_batches") as caught:
        callback.on_epoch_end(0, {"loss": 0.3, "mined_anchors": 0.5})
        callback.on_epoch_end(1, logs)
        callback.on_epoch_end(2, logs)
    assert len(caught) == 1
    assert "epoch 2" in str(caught[0].message)


@pytest.mark.parametrize(
    "name", ["val_loss", "val_mined_anchors", "val_birds_loss", "birds_loss", "birds_mined_anchors"]
)
def test_a_zero_under_any_name_is_explained(name):
    callback = ExplainZeroLoss()
    callback.set_model(types.SimpleNamespace(output_names=["birds", "cats"]))
    with pytest.warns(UserWarning, match=rf"In epoch 1 .*\({name} = 0\)") as caught:
        callback.on_epoch_end(0, {"loss": 0.3, "val_mined_anchors": 0.5, name: 0.0})
        callback.on_epoch_end(1, {"loss": 0.3, name: 0.0})
    assert len(caught) == 1
    is_validation = name.startswith("val_")
    assert ("validation_batches" in str(caught[0].message)) == is_validation
    assert ("nothing was learned" in str(caught[0].message)) != is_validation


def test_what_else_is_logged_may_be_zero():
    callback = ExplainZeroLoss()
    callback.set_model(types.SimpleNamespace(output_names=["birds"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callback.on_epoch_end(0, {"loss": 0.3, "kl_loss": 0.0, "val_loss": 0.2, "aux_loss": 0.0})


def test_steps_of_models_with_optimizers_by_name():
    model = types.SimpleNamespace(optimizers={"a": keras.optimizers.Adam(), "b": None})
    assert optimizer_steps(model) == 0
    model.optimizers["a"].iterations.assign(3)
    assert optimizer_steps(model) == 3


def class_by_class():
    order = np.argsort(LABELS, kind="stable")
    return tf.data.Dataset.from_tensor_slices((IMAGES[order], LABELS[order])).batch(10)


def test_validation_and_evaluation_on_batches_of_one_class_are_explained():
    model, explain = embedder(), ExplainZeroLoss()
    model.compile("sgd", MultiSimilarityLoss())
    with pytest.warns(UserWarning) as caught:
        history = fit(model, [explain], epochs=2, validation_data=class_by_class())
    said = [str(w.message) for w in caught if "exactly 0" in str(w.message)]
    assert history["val_loss"] == [0.0, 0.0] and len(said) == 1
    assert "In epoch 1" in said[0] and "images class by class" in said[0]
    with pytest.warns(UserWarning, match="In evaluate the loss was exactly 0"):
        model.evaluate(class_by_class(), callbacks=[ExplainZeroLoss()], verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.evaluate(IMAGES, LABELS, callbacks=[ExplainZeroLoss()], verbose=0)


def test_a_loss_that_is_not_finite_is_explained_by_the_weights_or_the_images():
    model = embedder(optimizer=keras.optimizers.SGD(float("nan")))
    with pytest.warns(UserWarning, match="was nan .*2 of 2 trained variables.*learning rate"):
        fit(model, [ExplainZeroLoss()], epochs=2)
    model, images = embedder(optimizer=keras.optimizers.SGD(0.0)), IMAGES.copy()
    images[3, 3] = np.nan
    with pytest.warns(UserWarning, match="In evaluate the loss was nan.*NaN in the images"):
        model.evaluate(images, LABELS, callbacks=[ExplainZeroLoss()], verbose=0)


def test_a_loss_above_zero_needs_no_explanation():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ExplainZeroLoss().on_epoch_end(0, {"loss": 1e-9, "mined_anchors": 0.01})
        ExplainZeroLoss().on_epoch_end(0, None)


def test_two_replicas_measure_what_one_does():
    script = """
        import keras
        import numpy as np
        import tensorflow as tf
        from keras_ms.callbacks import RecallAtK
        from keras_ms.evaluation.retrieval import recall_at_k

        processor = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, logical)
        rng = np.random.default_rng(0)
        images = rng.standard_normal((50, 8)).astype("float32")
        labels = np.arange(50) % 5
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            model.compile("sgd", "mse")
        recall = RecallAtK((images, labels), batch_size=32)
        history = model.fit(
            images, np.zeros((50, 4)), batch_size=10, callbacks=[recall], verbose=0
        ).history
        embeddings = images @ model.layers[0].kernel.numpy() + model.layers[0].bias.numpy()
        expected = recall_at_k(embeddings, labels)
        assert [history[f"val_recall@{k}"][0] for k in (1, 2, 4, 8)] == list(expected.values())
        print("same")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip().endswith("same"), run.stderr[-2000:]


# --- what steps are


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=4),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)),
    ],
    ids=["accumulated", "scaled loss"],
)
def test_steps_are_batches_whatever_the_optimizer_counts(optimizer):
    model = embedder(optimizer=optimizer())
    recall = RecallAtK((IMAGES, LABELS), every_steps=1)
    fit(model, [recall], epochs=2)  # 5 batches each
    assert [step for step, _ in recall.history] == list(range(11))
    model.compile(keras.optimizers.SGD(0.01), pull_together)  # one that has counted nothing
    fit(model, [recall], epochs=1)
    assert recall.step == recall.history[-1][0] == 15


def test_steps_rise_where_fit_does_not_know_the_number_of_batches():
    def batches():
        yield from ((IMAGES[start : start + 16], LABELS[start : start + 16])
                    for start in range(0, 80, 16))  # fmt: skip

    data = tf.data.Dataset.from_generator(
        batches, output_signature=(tf.TensorSpec((16, 24)), tf.TensorSpec((16,), tf.int64))
    )
    recall = RecallAtK((IMAGES, LABELS))
    embedder().fit(data, epochs=2, callbacks=[recall], verbose=0)
    first, second, third = (step for step, _ in recall.history)
    # the optimizer tells them, and may count the step that found no batch
    assert (first, second) in ((0, 5), (0, 6)) and third > second


# --- what is measured on


def unknown_length(batches):
    def generator():
        yield from batches

    signature = (tf.TensorSpec((None, 24)), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(generator, output_signature=signature)


BATCHES = [(IMAGES[start : start + 20], LABELS[start : start + 20]) for start in (0, 20, 40, 60)]


class Forever:
    def __iter__(self):
        rng = np.random.default_rng(0)
        while True:
            yield rng.standard_normal((50, 24)).astype("float32"), np.arange(50) % 5


@pytest.mark.parametrize(
    "dataset, message",
    [
        ((IMAGES, {"class": LABELS, "colour": LABELS}), r"several outputs: \['class', 'colour'\]"),
        ((IMAGES, np.eye(8)[LABELS]), r"\(80, 8\).*argmax"),
        ((IMAGES, LABELS.astype("float32")), "integer class ids.*float32"),
        ((IMAGES, np.array(["cat"] * 80)), "number the names"),
        ((IMAGES, np.arange(80)), "every class holds a single image"),
        ((IMAGES, LABELS, LABELS), "a tuple of 3"),
        (lambda: (IMAGES, LABELS), "Received: function"),
    ],
)
def test_what_cannot_be_measured_on_is_refused_at_once(dataset, message):
    with pytest.raises(ValueError, match=message):
        RecallAtK(dataset)


@pytest.mark.parametrize(
    "dataset, message",
    [
        ([(x, np.eye(8, dtype=int)[y]) for x, y in BATCHES], "argmax"),
        ([(x, {"class": y}) for x, y in BATCHES], "several outputs"),
        ([(x, [y, y]) for x, y in BATCHES], "several outputs"),
        ([IMAGES, LABELS], "one tuple of arrays"),
        (unknown_length(itertools.cycle(BATCHES)), "first 4 batches again.*take"),
        (unknown_length(itertools.repeat(BATCHES[0])), "first 1 batches again"),
        (Forever(), "did not end within"),
    ],
)
def test_bad_batches_are_explained_before_the_first_step(dataset, message, monkeypatch):
    monkeypatch.setattr(validation_set, "REFUSE_FROM", 500)
    monkeypatch.setattr(validation_set, "REPEATS_FROM", 100)
    model = embedder()
    with pytest.raises(ValueError, match=message):
        fit(model, [RecallAtK(dataset)], epochs=1)
    assert int(model.optimizer.iterations) == 0


def test_a_long_dataset_of_unknown_length_is_said_to_be_long(monkeypatch):
    monkeypatch.setattr(validation_set, "WARN_FROM", 60)
    recall = RecallAtK(unknown_length(BATCHES))
    recall.set_model(embedder())
    with pytest.warns(UserWarning, match="read 60 images.*does not know its length"):
        recall.measure()
    assert recall.history[0][1].num_queries == 80


def test_datasets_of_other_kinds_give_the_same():
    model, found = embedder(), []
    tensors = tf.constant(IMAGES), tf.constant(LABELS[:, None])
    for dataset in (
        (IMAGES, LABELS),
        tensors,
        (IMAGES.tolist(), LABELS.tolist()),
        unknown_length(BATCHES),
        [(x, y, np.ones(len(y))) for x, y in BATCHES],
    ):
        recall = RecallAtK(dataset)
        recall.set_model(model)
        found.append(recall.measure())
    assert all(recalls == found[0] for recalls in found)


def test_images_that_are_a_dict():
    first, second = keras.Input((12,), name="a"), keras.Input((12,), name="b")
    model = keras.Model({"a": first, "b": second}, keras.layers.Dense(4)(first + second))
    parts = {"a": IMAGES[:, :12], "b": IMAGES[:, 12:]}
    recall = RecallAtK((parts, LABELS), batch_size=32)
    recall.set_model(model)
    assert recall.measure() == recall_at_k(model.predict(parts, verbose=0), LABELS)
