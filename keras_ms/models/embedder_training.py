"""What the models that train an embedder share: to all who use them, they are the embedder."""

from typing import Any

import keras


class EmbedderTraining(keras.Model):
    """A model around `self.embedder` whose inputs, outputs and export are the embedder's.

    What a subclass adds takes part in training only.
    """

    @property
    def inputs(self) -> list[Any]:
        """The embedder's symbolic inputs."""
        return self.embedder.inputs

    @property
    def input_shape(self) -> Any:
        """Shape of the embedder's input, with the batch."""
        return self.embedder.input_shape

    @property
    def output_shape(self) -> Any:
        """Shape of the embeddings, with the batch."""
        return self.embedder.output_shape

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.embedder(inputs, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.embedder.compute_output_shape(input_shape)

    def export(self, filepath: Any, *args: Any, **options: Any) -> Any:
        """As `keras.Model.export` of the embedder: inference needs nothing else."""
        return self.embedder.export(filepath, *args, **options)
