"""Train an embedder: `python scripts/train.py --help`. The same as `keras-ms train`."""

import sys

from keras_ms.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
