"""The command line, keras-ms."""

from keras_ms.cli.main import main as main
