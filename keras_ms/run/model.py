"""What a run trains: the embedder as the settings say, and the part of it that fit sees."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_ms.hdml.model import HDML
from keras_ms.hdml.tuples import TripletTuples
from keras_ms.losses.mined_anchors import MinedAnchors
from keras_ms.models.embedding import split_embedder, without_normalization
from keras_ms.models.saved_files import write_model
from keras_ms.optimizers import GroupedAdam, StageSchedule
from keras_ms.pairs.replicas import mirrored_strategy
from keras_ms.run.embedder import embedder_of
from keras_ms.run.losses import named_loss
from keras_ms.run.setting_checks import parsed_decay_steps


class RunModel:
    """The models of one run, which share their variables; `build` makes them.

    Args:
        settings: `Settings`.

    Raises:
        ValueError: settings that the loss does not take, more devices than there are.

    Attributes:
        embedder: images to unit-norm embeddings, what is deployed.
        features_model: images to pooled features.
        head: pooled features to unit-norm embeddings.
        random_head: the kernel of the head as it was built.
        embedding_size: dimensions of the embedding.
        model: what fit trains and evaluation embeds with: the embedder on images, or its head on
            cached features with a frozen backbone; or `keras_ms.hdml.model.HDML` around it.
        loss: the loss of the settings.
    """

    def __init__(self, settings):
        self.settings = settings
        self.loss = named_loss(settings.loss, **settings.loss_options())
        self._other_rates = {}  # of HDML's optimizers beside the embedder's
        # first: without GPUs it divides the processor, which TensorFlow allows at its start only
        self._strategy = mirrored_strategy(settings.devices) if settings.devices > 1 else None
        keras.utils.set_random_seed(settings.seed)

    def build(self, labels):
        """Makes the models. Not in the constructor: bad images are to be found before it.

        Args:
            labels: class ids of the training images.
        """
        settings = self.settings
        with self.scope():
            self.embedder = embedder_of(settings)
            if self._strategy and not settings.freeze_backbone:
                _synchronize_batch_norm(self.embedder, True)
            self.features_model, self.head = split_embedder(self.embedder)
            self.random_head = ops.convert_to_numpy(self.embedder.get_layer("embedding").kernel)
            self.embedding_size = self.random_head.shape[1]
            self.model = self.head if settings.freeze_backbone else self.embedder
            if settings.hdml != "off":
                self.model = self._hdml(labels)
            elif not self.loss.normalize:
                self.model = without_normalization(self.model)

    def scope(self):
        """Where variables are made: on every device, if there are several."""
        return self._strategy.scope() if self._strategy else contextlib.nullcontext()

    def compile(self, stages=1):
        """Compiles `model` with the optimizer, loss and metrics of the settings.

        Args:
            stages: how often the learning-rate schedule is run, in as many parts of the steps.
        """
        # XLA for the whole network was slower on CPUs; the loss compiles its own part
        options = {"optimizer": self._optimizer(stages), "jit_compile": False}
        if self.settings.hdml != "off":
            for name, rate in self._other_rates.items():
                options[f"{name}_optimizer"] = keras.optimizers.Adam(rate)
        else:
            options |= {"loss": self.loss, "metrics": self._metrics()}
        self.model.compile(**options)
        if self.settings.hdml == "off":  # HDML builds its own
            # else the first trace of the step makes the variables, and fit traces it again
            self.model.optimizer.build(self.model.trainable_variables)

    def save_deployed(self, path):
        """Saves the embedder as a .keras file that loads on one device and on every backend.

        Returns:
            The model that was saved, without the optimizer's state, which is twice the weights.
        """
        deployed = keras.Model(self.embedder.inputs, self.embedder.outputs, name="embedder")
        if self._strategy:
            _synchronize_batch_norm(self.embedder, False)
        write_model(deployed, path)
        return keras.saving.load_model(path, compile=False) if self._strategy else deployed

    def num_parameters(self):
        """`(all, trained)` numbers of the embedder's parameters."""
        trained = sum(int(np.prod(v.shape)) for v in self.embedder.trainable_variables)
        return self.embedder.count_params(), trained

    def _metrics(self):
        # the mining of the others is not that of the metric
        mines = self.settings.loss == "multi_similarity"
        return [MinedAnchors(epsilon=self.loss.epsilon)] if mines else []

    def _hdml(self, labels):
        settings, options = self.settings, self.settings.hdml_options()
        self._other_rates = {
            name: options.pop(f"{name}_learning_rate")
            for name in ("generator", "classifier")
            if f"{name}_learning_rate" in options
        }
        # the paper's averages are those of the last epoch
        if settings.hdml == "paper":
            options.setdefault("average_steps", settings.steps_per_epoch)
        # the published triplet variant takes distances of embeddings as they are
        is_triplet = settings.loss == "triplet"
        try:
            metric_loss = TripletTuples(**settings.loss_options()) if is_triplet else self.loss
            return HDML(self.model, labels, metric_loss, mode=settings.hdml, **options)
        except TypeError as error:
            raise ValueError(f"HDML: {error}") from error

    def _optimizer(self, stages):
        settings = self.settings
        factors = None
        if settings.backbone_learning_rate is not None:
            backbone = {id(v) for v in self.embedder.get_layer("backbone").trainable_variables}
            factor = settings.backbone_learning_rate / settings.learning_rate
            trained = self.embedder if settings.hdml != "off" else self.model
            factors = [factor if id(v) in backbone else 1.0 for v in trained.trainable_variables]
        return self.optimizer(self.schedule(settings.learning_rate, stages), factors)

    def optimizer(self, schedule, factors=None):
        """The optimizer of the settings.

        Args:
            schedule: learning rate as Keras takes it.
            factors: of each trained variable's learning rate. Defaults to None: 1.
        """
        return GroupedAdam(schedule, factors, coupled_l2=self.settings.coupled_l2)

    def schedule(self, rate, stages=1):
        """The learning rate as Keras takes it, run `stages` times in as many parts of the steps.

        Args:
            rate: the highest learning rate.
            stages: how often the schedule is run.

        Raises:
            ValueError: `decay_steps` that do not fit into a stage.
        """
        settings = self.settings
        steps = settings.steps // stages
        if settings.schedule == "constant":
            return rate
        if settings.schedule == "cosine":
            schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
        else:
            boundaries = parsed_decay_steps(settings, steps)
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
                list(boundaries), [rate * 0.1**number for number in range(len(boundaries) + 1)]
            )
        return schedule if stages == 1 else StageSchedule(schedule, steps, stages)


def _synchronize_batch_norm(model, synchronized):
    """Whether batch normalisation takes its statistics from the batch of all devices."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _synchronize_batch_norm(layer, synchronized)
        elif isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = synchronized
