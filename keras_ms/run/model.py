"""What a run trains: the embedder as the settings say, and the part of it that fit sees."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_ms.export.keras_file import write_keras_file
from keras_ms.hdml.model import HDML
from keras_ms.hdml.tuples import TripletTuples
from keras_ms.losses.mined_anchors import MinedAnchors
from keras_ms.models.blocks import layer_decay_factors
from keras_ms.models.checkpointed_blocks import checkpointable_layers
from keras_ms.models.embedding import split_embedder, without_normalization
from keras_ms.models.frozen_layers import freeze_blocks
from keras_ms.models.lora import enable_lora
from keras_ms.optimizers import decayed_kernels
from keras_ms.pairs.replicas import data_parallel, data_shard, mirrored_strategy
from keras_ms.run.embedder import embedder_of
from keras_ms.run.losses import named_loss
from keras_ms.run.optimizer import learning_rate_schedule, run_optimizer
from keras_ms.run.settings import Settings


class RunModels(NamedTuple):
    """The models of one run, which share their variables.

    Attributes:
        embedder: images to unit-norm embeddings, what is deployed.
        features_model: images to pooled features.
        head: pooled features to unit-norm embeddings.
        trained: what fit trains and evaluation embeds with: the embedder on images, or its head on
            cached features with a frozen backbone; or `keras_ms.hdml.model.HDML` around it.
        loss: the loss of the settings.
        random_kernel: of the head as it was built, (features, dimensions).
        strategy: `tf.distribute.Strategy` over several devices, on JAX
            `keras.distribution.DataParallel`, or None.
    """

    embedder: keras.Model
    features_model: keras.Model
    head: keras.Model
    trained: keras.Model
    loss: Any
    random_kernel: np.ndarray
    strategy: Any

    @property
    def trains_unit_vectors(self) -> bool:
        """Whether what is trained by compares unit vectors, not embeddings as they are."""
        trained: Any = self.trained
        # HDML has the triplet loss on embeddings as they are, where the loss of that name has not
        return (trained.metric_loss if isinstance(trained, HDML) else self.loss).normalize

    def scope(self) -> contextlib.AbstractContextManager:
        """Where variables are made: on every device, if there are several."""
        return _scope(self.strategy)


def run_loss(settings: Settings) -> Any:
    """The loss of the settings.

    Raises:
        ValueError: settings that it does not take.
    """
    return named_loss(settings.loss.name, **settings.loss.options)


def device_strategy(settings: Settings) -> Any:
    """The `tf.distribute.Strategy` over the devices of the settings, on JAX the
    `keras.distribution.DataParallel`; None for one device.

    Called before anything is computed: without GPUs it divides the processor, which TensorFlow
    and JAX allow at their start only.

    Raises:
        ValueError: more devices than there are, or fewer than several processes have.
    """
    devices = settings.training.devices
    if devices == 1 and data_shard() == (0, 1):
        return None
    return (data_parallel if keras.backend.backend() == "jax" else mirrored_strategy)(devices)


def build_models(
    settings: Settings, labels: np.ndarray, *, loss: Any, strategy: Any = None
) -> RunModels:
    """The models of a run, before training and not compiled.

    Args:
        settings: `Settings`.
        labels: class ids of the training images.
        loss: of `run_loss`.
        strategy: of `device_strategy`. Defaults to None: one device.

    Raises:
        ValueError: settings that the backbone, the head or HDML do not take, such as fine-tuning by
            blocks of a backbone that has none.
    """
    with _scope(strategy):
        embedder = embedder_of(settings, len(labels))
        _set_trained_part(settings, embedder)
        if _divides_statistics(strategy) and not settings.model.freeze_backbone:
            _synchronize_batch_norm(embedder, True)
        features_model, head = split_embedder(embedder)
        kernel: Any = embedder.get_layer("embedding").kernel
        random_kernel = np.asarray(ops.convert_to_numpy(kernel))
        trained = head if settings.model.freeze_backbone else embedder
        if settings.hdml.mode != "off":
            trained = _hdml(settings, trained, labels, loss)
        elif not loss.normalize:
            trained = without_normalization(trained)
    return RunModels(embedder, features_model, head, trained, loss, random_kernel, strategy)


def compile_model(settings: Settings, models: RunModels, *, stages: int = 1) -> None:
    """Compiles what is trained with the optimizer, loss and metrics of the settings.

    Args:
        settings: `Settings`, with a learning rate.
        models: of `build_models`.
        stages: how often the learning-rate schedule is run, in as many parts of the steps.

    Raises:
        ValueError: a learning rate that folds have still to choose.
    """
    if settings.training.learning_rate is None:
        raise ValueError("Expected settings with a learning rate. Received one that is still open")
    with models.scope():
        schedule = learning_rate_schedule(settings, settings.training.learning_rate, stages=stages)
        trained = models.embedder if settings.hdml.mode != "off" else models.trained
        optimizer = run_optimizer(
            settings, schedule,
            decayed=decayed_kernels(trained.trainable_variables),
            factors=_rate_factors(settings, models.embedder, trained),
        )  # fmt: skip
        # XLA for the whole network was slower on CPUs; the loss compiles its own part. JAX without
        # it computes operation by operation
        is_compiled = keras.backend.backend() == "jax"
        options: dict[str, Any] = {"optimizer": optimizer, "jit_compile": is_compiled}
        if settings.hdml.mode != "off":
            for name, rate in _hdml_options(settings)[1].items():
                options[f"{name}_optimizer"] = keras.optimizers.Adam(rate)
        else:
            # the mining of the other losses is not that of the metric
            mines = settings.loss.name == "multi_similarity"
            metrics = [MinedAnchors(epsilon=models.loss.epsilon)] if mines else []
            options |= {"loss": models.loss, "metrics": metrics}
        models.trained.compile(**options)


def parameters_in_words(embedder: keras.Model) -> str:
    """How many parameters the embedder has, and how many of them are trained."""
    trained = sum(int(np.prod(v.shape)) for v in embedder.trainable_variables)
    return f"{embedder.count_params():,} parameters, {trained:,} trained"


def save_deployed(models: RunModels, path: Path) -> keras.Model:
    """Saves the embedder as a .keras file that loads on one device and on every backend.

    Returns:
        The model that was saved, without the optimizer's state, which is twice the weights.

    Raises:
        ExportMismatchError: the file would load as another model.
    """
    embedder, strategy = models.embedder, models.strategy
    deployed = keras.Model(embedder.input, embedder.output, name="embedder")
    if not _divides_statistics(strategy):
        write_keras_file(deployed, path)
        return deployed
    _synchronize_batch_norm(embedder, False)
    write_keras_file(deployed, path)
    for_one_device: Any = keras.saving.load_model(path, compile=False)
    return for_one_device


def _divides_statistics(strategy):
    # JAX's see the whole batch anyway
    return strategy and keras.backend.backend() == "tensorflow"


def _scope(strategy):
    return strategy.scope() if strategy else contextlib.nullcontext()


def _hdml(settings, embedder, labels, loss):
    options, _ = _hdml_options(settings)
    # the paper's averages are those of the last epoch
    if settings.hdml.mode == "paper":
        options.setdefault("average_steps", settings.training.steps_per_epoch)
    # the published triplet variant takes distances of embeddings as they are
    is_triplet = settings.loss.name == "triplet"
    try:
        metric_loss = TripletTuples(**settings.loss.options) if is_triplet else loss
        return HDML(embedder, labels, metric_loss, mode=settings.hdml.mode, **options)
    except TypeError as error:
        raise ValueError(f"HDML: {error}") from error


def _hdml_options(settings):
    """(options of HDML, learning rates of its optimizers beside the embedder's, by part)."""
    options = dict(settings.hdml.options)
    rates = {
        name: float(options.pop(f"{name}_learning_rate"))
        for name in ("generator", "classifier")
        if f"{name}_learning_rate" in options
    }
    return options, rates


def _set_trained_part(settings, embedder):
    """Holds what of the backbone is not trained; what it cannot be asked is refused."""
    training, backbone = settings.training, embedder.get_layer("backbone")
    if training.freeze_blocks:
        freeze_blocks(backbone, training.freeze_blocks)
    if training.lora_rank:
        enable_lora(embedder, training.lora_rank)
    layer_decay_factors(backbone, training.layer_decay)
    if training.gradient_checkpointing:
        checkpointable_layers(backbone)


def _rate_factors(settings, embedder, trained):
    """Of each trained variable's learning rate, a list; None where all have one rate."""
    training, backbone = settings.training, embedder.get_layer("backbone")
    if training.backbone_learning_rate is None and training.layer_decay == 1.0:
        return None
    factor = 1.0
    if training.backbone_learning_rate is not None:
        factor = training.backbone_learning_rate / training.learning_rate
    by_block = layer_decay_factors(backbone, training.layer_decay)
    factors = {id(v): factor * by_block.get(id(v), 1.0) for v in backbone.trainable_variables}
    return [factors.get(id(v), 1.0) for v in trained.trainable_variables]


def _synchronize_batch_norm(model, synchronized):
    """Whether batch normalisation takes its statistics from the batch of all devices."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _synchronize_batch_norm(layer, synchronized)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = synchronized
