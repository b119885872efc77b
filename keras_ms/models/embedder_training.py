"""What the models that train an embedder share: to all who use them, they are the embedder."""

import keras


class EmbedderTraining(keras.Model):
    """A model around `self.embedder` whose inputs, outputs and export are the embedder's.

    What a subclass adds takes part in training only.
    """

    @property
    def inputs(self):
        """The embedder's symbolic inputs."""
        return self.embedder.inputs

    @property
    def input_shape(self):
        """Shape of the embedder's input, with the batch."""
        return self.embedder.input_shape

    @property
    def output_shape(self):
        """Shape of the embeddings, with the batch."""
        return self.embedder.output_shape

    def call(self, inputs, training=None):
        return self.embedder(inputs, training=training)

    def compute_output_shape(self, input_shape):
        return self.embedder.compute_output_shape(input_shape)

    def export(self, filepath, *args, **options):
        """As `keras.Model.export` of the embedder: inference needs nothing else."""
        return self.embedder.export(filepath, *args, **options)
