"""What a recipe says, and how one of a family is chosen and run.

    python scripts/recipes/omniglot.py                          lists the recipes of a family
    python scripts/recipes/omniglot.py hdml --data-dir omniglot     runs one of them

Every option of `keras-ms train` can follow the name, such as --seed, --devices or --precision.
"""

import difflib
import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Recipe(NamedTuple):
    """A training whose outcome is known or published.

    Attributes:
        title: what is trained on which data.
        data_dir: the data set's folder, as an example.
        source: where its settings come from.
        expected: Recall@1 in %, and whose figure that is.
        cost: training images and time.
        settings: of the run by their names; those of the loss and of HDML are dicts,
            `loss_options` and `hdml_options`.
        note: what else there is to know before it is run. Defaults to "".
    """

    title: str
    data_dir: str
    source: str
    expected: str
    cost: str
    settings: Mapping[str, Any]
    note: str = ""


def run(family: str | None, recipes: Mapping[str, Recipe], default: str | None = None) -> None:
    """Ends the program with what the words of the command line ask for.

    - A name and options: trains as that recipe says, with the options on top of it.
    - No name but options: the default recipe, where there is one.
    - --resume: continues an interrupted run with its own settings.
    - Nothing, or --help: lists the recipes.

    Args:
        family: what the recipes have in common, the docstring of their file.
        recipes: by the name that chooses them.
        default: the name where none is given. Defaults to None: one has to be.
    """
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        try:
            print(listing(family, recipes, default), flush=True)
        except BrokenPipeError:  # who reads it has seen enough
            os._exit(141)
        sys.exit(0)
    name, options = (default, words) if words[0].startswith("-") else (words[0], words[1:])
    recipe = recipes.get(name or "")
    resumes = any(option.split("=")[0] == "--resume" for option in options)
    if recipe is None and not (name is None and resumes):
        print(f"error: {_unknown(name, recipes)}", file=sys.stderr)
        sys.exit(2)
    # only now: a list and a typo need nothing of the package
    from keras_ms.cli.main import main

    if recipe is None or resumes:
        sys.exit(main(["train", *options]))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "settings.json"
        config.write_text(json.dumps(dict(recipe.settings)), encoding="utf-8")
        sys.exit(main(["train", "--config", str(config), *options]))


def listing(family: str | None, recipes: Mapping[str, Recipe], default: str | None = None) -> str:
    """A page of text about the recipes: source, expected figure, cost and command of each."""
    lines = [
        f"usage: python {sys.argv[0]} {'NAME' if default is None else '[NAME]'} --data-dir FOLDER",
        "       and any option of train, which NAME --help lists",
        "",
        (family or "").strip(),
    ]
    for name, recipe in recipes.items():
        lines += ["", f"{name}{' (without a NAME)' if name == default else ''}: {recipe.title}"]
        for what, words in (
            ("Note", recipe.note),
            ("Source", recipe.source),
            ("Expected Recall@1", recipe.expected),
            ("Cost", recipe.cost),
        ):
            if words:
                lines += textwrap.wrap(
                    f"{what}: {words}",
                    96,
                    initial_indent="    ",
                    subsequent_indent="        ",
                    break_on_hyphens=False,
                )
        lines.append(f"    python {sys.argv[0]} {name} --data-dir {recipe.data_dir}")
    return "\n".join(lines)


def _unknown(name: str | None, recipes: Mapping[str, Recipe]) -> str:
    words = f"Expected a recipe first, one of {', '.join(recipes)}"
    if name is None:
        return f"{words}. Received options alone"
    near = difflib.get_close_matches(name, recipes, n=1)
    return f"{words}. Received: {name!r}" + (f". Did you mean {near[0]!r}?" if near else "")
