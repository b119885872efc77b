"""How a recipe runs: its settings, and on top of them the options of the command line."""

import json
import sys
import tempfile
from pathlib import Path

from keras_ms.cli.main import main


def run(settings):
    """Trains as `settings` say, a dict; options such as --data-dir, --seed, --devices go before.

    `--help` lists them. `--resume` continues an interrupted run with its own settings.
    """
    options = sys.argv[1:]
    if any(option.split("=")[0] == "--resume" for option in options):
        sys.exit(main(["train", *options]))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "settings.json"
        config.write_text(json.dumps(settings))
        sys.exit(main(["train", "--config", str(config), *options]))
