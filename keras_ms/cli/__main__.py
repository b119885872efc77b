"""`python -m keras_ms.cli` is `keras-ms`."""

import sys

from keras_ms.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
