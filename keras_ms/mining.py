"""Which pairs of a batch are kept: the functions of `keras_ms.pairs.mining`."""

from keras_ms.pairs.mining import *  # noqa: F401, F403
