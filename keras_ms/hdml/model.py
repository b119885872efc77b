"""Hardness-aware deep metric learning: synthetic negatives that get harder as training goes on."""

from typing import Any

import keras
from keras import ops

from keras_ms.hdml.formulas import hardness_weight, real_share
from keras_ms.hdml.networks import (
    ClassIndex,
    LossAverages,
    build_classifier,
    build_generator,
    check_settings,
    check_strategy,
    features_and_embeddings_model,
    images_and_labels,
)
from keras_ms.hdml.step import LOGGED, Networks, apply_where_finite, step_losses
from keras_ms.hdml.tuples import Tuples, tuples_of
from keras_ms.losses.pair_loss import PairLoss
from keras_ms.models.embedder_training import EmbedderTraining
from keras_ms.pairs.unit_vectors import cast_for_loss

# official code: the rates of its three Adam optimizers
_RATES = {"optimizer": 7e-5, "generator_optimizer": 1e-2, "classifier_optimizer": 1e-3}


@keras.saving.register_keras_serializable(package="keras_ms")
class HDML(EmbedderTraining):
    """Trains an embedder on real tuples and on synthetic ones of a hardness that is controlled.

    Most negatives of a batch are soon too easy to teach anything. Here they are pulled toward
    their anchors in the space of embeddings, little at first and more as the metric loss falls; a
    generator, trained along, turns the moved embeddings back into features that keep their
    label, and these are embedded again. The metric loss on real and on synthetic tuples is
    weighted by how well the generator works. The model's output is the embedder's.

    Reference: Zheng, Chen, Lu, Zhou: Hardness-Aware Deep Metric Learning, CVPR 2019.

    Relations: a `keras.Model` around a loss, as `keras_ms.CrossBatchMemory` is: that one finds more
    negatives among past images, `keras_ms.neighbour_batches` harder ones among near classes, this
    one makes them. It trains a generator and a classifier beside, and gains less here than
    published (docs/hdml.md).

    Args:
        embedder: model of `keras_ms.build_embedder`, or the head of
            `keras_ms.models.embedding.split_embedder` to train on cached features: a linear layer
            "embedding" on a layer "pool" or on the input, and "l2" if there is one. The input of
            "embedding" is the feature y, its output the embedding z. It is the part to deploy.
        classes: number of classes, whose ids are then 0 to `classes - 1`, or the class ids of the
            training images in any order, repeated or not (`images.labels`).
        metric_loss: `"n_pair"` (batches of 2 images a class), `"triplet"`, `"multi_similarity"`;
            a loss of this library that is separable by anchor; or `NPairTuples`, `TripletTuples`,
            `PairTuples` of `keras_ms.hdml.tuples`, which have the options. Defaults to
            `"n_pair"`, the better of the published two.
        mode: `"paper"` or `"official"`, the authors' code where it differs; docs/hdml.md has the
            table. Defaults to `"paper"`.
        alpha: pulling factor >= 0, in units of the metric loss: negatives are moved by
            e^{-alpha / J_avg}. Defaults to None: the published 90 for N-pair and 7 for triplets,
            0.5 for pair-based losses, which are about 1 at first.
        beta: balance >= 0, in units of the generator loss, which grows with the batch and the
            features: real tuples count e^{-beta / J_gen}. 0 trains on real tuples alone. Defaults
            to 1e4, as published for Cars (5e3 for the other sets). Look at `synthetic_share`.
        lambda_g: weight of the labels in the generator loss, within [0, 1]. Defaults to 0.5, as
            published.
        average_steps: steps after which J_avg and J_gen, means over these steps, are renewed.
            Defaults to 64, the official code's; the steps of an epoch give the paper's, and are
            what `keras-ms train --hdml paper` takes unless it is given.
        name: name of the model. Defaults to "hdml".

    `compile` takes three optimizers and no loss. `fit` logs, as means over the images: `loss`
    (J_metric and the embedder's regularisation), `metric_loss` (J_m), `synthetic_loss` (J_syn),
    `generator_loss` (J_gen), `classifier_loss`, `lambda`, `synthetic_share` (1 - e^{-beta /
    J_gen}), and the cosine similarity of anchors with their negatives: real
    (`negative_similarity`), moved (`hardened_similarity`), generated and embedded again
    (`synthetic_similarity`). `evaluate` gives J_m of the batches as `loss`.

    Corner cases:
        - Averages, sums and counters belong to the model's weights (non-trainable): a resumed run
          goes on as if it had not been interrupted.
        - A step with a loss or a gradient that is not finite leaves the generator and the
          classifier as they were, and the embedder too if it is J_metric's; no average takes it.
        - A batch without tuples trains the generator and the classifier alone.
        - So does a batch with an image of a class that was not given: its `generator_loss` and
          `classifier_loss` are NaN.
        - With mixed precision the generator, the classifier and the losses stay in float32.
        - `model.export` writes the embedder. With mixed precision give `model.embedder` to the
          functions of `keras_ms.export`, which copy the model in float32.

    Raises:
        ValueError: an embedder without the layer "embedding", settings out of range, a loss given
            to `compile`, sample weights, another backend than TensorFlow, or a tf.distribute
            strategy other than OneDeviceStrategy.

    Example:

    >>> embedder = keras_ms.build_embedder(image_size=32, embedding_size=16)
    >>> model = HDML(embedder, classes=4)
    >>> model.compile()
    >>> images, labels = np.random.rand(8, 32, 32, 3), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    >>> history = model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    >>> model.predict(images, verbose=0).shape
    (8, 16)
    """

    def __init__(
        self,
        embedder: keras.Model,
        classes: Any,
        metric_loss: str | PairLoss | Tuples = "n_pair",
        mode: str = "paper",
        alpha: float | None = None,
        beta: float = 1e4,
        lambda_g: float = 0.5,
        average_steps: int = 64,
        name: str = "hdml",
    ):
        features_and_embeddings = features_and_embeddings_model(embedder)
        tuples = tuples_of(metric_loss)
        alpha = tuples.alpha if alpha is None else alpha
        check_settings(mode, alpha, beta, lambda_g, average_steps)
        # The embedder converts its own inputs. With its policy, compile scales the loss of a
        # float16 model.
        super().__init__(name=name, dtype=embedder.dtype_policy, autocast=False)
        check_strategy(getattr(self, "distribute_strategy", None))
        self.embedder = embedder
        self.classes = ClassIndex(classes)
        self.metric_loss = tuples
        self.mode = mode
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.lambda_g = float(lambda_g)
        self.average_steps = int(average_steps)
        # a bound method is not tracked: the layers are the embedder's, to be saved once
        self._features_and_embeddings = features_and_embeddings.__call__
        features, embeddings, _ = features_and_embeddings.outputs
        channels, dimension = features.shape[1], embeddings.shape[1]
        precise = embeddings.dtype if embeddings.dtype in ("float32", "float64") else "float32"
        self._precise = precise
        self.generator = build_generator(dimension, channels, precise)
        self.classifier = build_classifier(channels, len(self.classes.ids), precise)
        self.averages = LossAverages(self.average_steps, precise)
        self._logged = {name: keras.metrics.Mean(name=name, dtype="float32") for name in LOGGED}
        self.built = True

    @property
    def optimizers(self) -> list[Any]:
        """The three optimizers: of the embedder, the generator, the classifier."""
        return [self.optimizer, self.generator_optimizer, self.classifier_optimizer]

    def compile(
        self,
        optimizer: Any = None,
        loss: Any = None,
        *args: Any,
        generator_optimizer: Any = None,
        classifier_optimizer: Any = None,
        **options: Any,
    ) -> None:
        """As `keras.Model.compile`, with three optimizers and without a loss.

        Args:
            optimizer: trains the embedder on J_metric. Defaults to None: Adam at 7e-5.
            loss: leave it out; it was given to the constructor.
            generator_optimizer: trains the generator. Defaults to None: Adam at 1e-2.
            classifier_optimizer: trains the softmax classifier. Defaults to None: Adam at 1e-3.
                All three rates are the official code's.
            *args, **options: as in `keras.Model.compile`.

        Raises:
            ValueError: a loss, or another backend than TensorFlow.
        """
        if loss is not None:
            raise ValueError(
                "The loss of HDML is its constructor argument `metric_loss`; leave it out of "
                f"`compile`. Received: loss={loss!r}"
            )
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "HDML trains on the TensorFlow backend (KERAS_BACKEND=tensorflow): its step has "
                f"three optimizers. Received: {keras.backend.backend()}"
            )
        super().compile(_optimizer("optimizer", optimizer), None, *args, **options)
        self.generator_optimizer = _optimizer("generator_optimizer", generator_optimizer)
        self.classifier_optimizer = _optimizer("classifier_optimizer", classifier_optimizer)
        for trained, part in zip(self.optimizers, (self.embedder, self.generator, self.classifier)):
            if not trained.built:
                trained.build(part.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        if config:
            for name in ("generator_optimizer", "classifier_optimizer"):
                config[name] = keras.saving.serialize_keras_object(getattr(self, name))
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras does this by itself only where `compile` is not overridden.
        self.compile(**keras.saving.deserialize_keras_object(config))

    def train_step(self, data: Any) -> dict[str, Any]:
        import tensorflow as tf

        inputs, labels = images_and_labels(data)
        check_strategy(tf.distribute.get_strategy())
        parts = self.embedder, self.generator, self.classifier
        statistics = [[tf.identity(v.value) for v in part.non_trainable_weights] for part in parts]
        with tf.GradientTape(persistent=True) as tape:
            embeddings, step = self._forward(inputs, labels)
            losses = self.optimizer.scale_loss(step.metric), step.generator, step.classifier
        # all gradients before any is applied: each loss sees the same weights of the other parts
        gradients = [
            tape.gradient(loss, part.trainable_variables) for loss, part in zip(losses, parts)
        ]
        apply_where_finite(self.optimizers, losses, gradients, parts, statistics)
        self.averages.record(step.recorded, step.generator)
        size = ops.shape(embeddings)[0]
        self._loss_tracker.update_state(step.metric, sample_weight=size)
        for name, metric in self._logged.items():
            metric.update_state(step.log[name], sample_weight=size)
        return self.compute_metrics(inputs, labels, embeddings)

    def test_step(self, data: Any) -> dict[str, Any]:
        inputs, labels = images_and_labels(data)
        _, unscaled, embeddings = self._features_and_embeddings(inputs, training=False)
        value = self.metric_loss.metric_loss(labels, ops.cast(unscaled, self._precise))
        self._loss_tracker.update_state(value, sample_weight=ops.shape(embeddings)[0])
        values = self.compute_metrics(inputs, labels, embeddings)
        # what only a training step knows would be 0 here
        return {name: value for name, value in values.items() if name not in self._logged}

    def get_config(self) -> dict[str, Any]:
        return {
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "classes": self.classes.ids.tolist(),
            "metric_loss": keras.saving.serialize_keras_object(self.metric_loss),
            "mode": self.mode,
            "alpha": self.alpha,
            "beta": self.beta,
            "lambda_g": self.lambda_g,
            "average_steps": self.average_steps,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "HDML":
        nested = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("embedder", "metric_loss")
        }
        return cls(**{**config, **nested})

    def _forward(self, inputs, labels):
        """The step's embeddings, as the embedder gives them, and its StepLosses."""
        outputs = self._features_and_embeddings(inputs, training=True)
        features, embeddings = (cast_for_loss(part, self._precise) for part in outputs[:2])
        embed = self.embedder.get_layer("embedding")
        step = step_losses(
            features,
            embeddings,
            labels=labels,
            own=self.classes(labels),
            networks=Networks(
                lambda rows: ops.cast(embed(rows), self._precise),
                lambda rows, exists: self.generator(rows, training=True, mask=exists),
                self.classifier,
            ),
            tuples=self.metric_loss,
            weight=hardness_weight(self.alpha, self.averages.metric),
            share=real_share(self.beta, self.averages.generator),
            lambda_g=self.lambda_g,
            official=self.mode == "official",
        )
        regularisation = [ops.cast(ops.sum(added), self._precise) for added in self.embedder.losses]
        return outputs[2], step._replace(metric=sum(regularisation, step.metric))


def _optimizer(name, given):
    return keras.optimizers.Adam(_RATES[name]) if given is None else keras.optimizers.get(given)
