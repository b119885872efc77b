"""The settings of a training run."""

from keras_ms.run.settings.settings import Settings as Settings
from keras_ms.run.settings.settings import read_values as read_values
