"""Export a saved .keras model: `python scripts/export.py --help`. As `keras-ms export`."""

import sys

from keras_ms.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
