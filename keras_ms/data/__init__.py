"""From images on disk (or drawn) to balanced tf.data batches."""
