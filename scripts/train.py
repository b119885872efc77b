"""Train an embedder: `python scripts/train.py --help`. The same as `keras-ms train`."""

import os
import sys

# TensorFlow reads it when it is imported: of its start-up chatter, nothing concerns the user
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from keras_ms.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
