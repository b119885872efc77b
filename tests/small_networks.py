"""Small networks of one's own, as users give them for a backbone."""

import keras
import numpy as np
from keras import layers

SIDE = 32
IMAGES = np.random.default_rng(0).uniform(0, 255, (8, SIDE, SIDE, 3)).astype("float32")
LABELS = np.repeat(np.arange(4), 2)


@keras.saving.register_keras_serializable(package="keras_ms_tests")
class Subclassed(keras.Model):
    """A class of its own, with statistics and dropout inside."""

    def __init__(self, channels=8, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.convolution = layers.Conv2D(channels, 3, strides=2)
        self.normalisation = layers.BatchNormalization(momentum=0.5)
        self.dropout = layers.Dropout(0.3)

    def call(self, inputs, training=None):
        inner = self.normalisation(self.convolution(inputs), training=training)
        return self.dropout(inner, training=training)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


def functional(key=None, sides=(None, None)):
    """To a feature map of 6 channels, with statistics; its images under a key if one is given."""
    images = keras.Input((*sides, 3), name=key)
    x = layers.Conv2D(6, 3, name="convolution")(images)
    x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
    return keras.Model({key: images} if key else images, x, name="functional")


def sequential():
    """Not built, with its own preprocessing, to vectors of 8 numbers."""
    return keras.Sequential(
        [
            layers.RandomFlip(),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, strides=2),
            layers.BatchNormalization(momentum=0.5),
            layers.GlobalAveragePooling2D(),
        ],
        name="sequential",
    )


def tokens(side=SIDE):
    """A class token and sixteen of patches, 8 channels each."""
    images = keras.Input((side, side, 3))
    x = layers.Conv2D(8, side // 4, strides=side // 4)(images)
    x = layers.ZeroPadding1D((1, 0))(layers.Reshape((16, 8))(x))
    return keras.Model(images, layers.Dense(8, name="mixed")(x), name="tokens")
