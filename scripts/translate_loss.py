"""Prints the loss of keras_ms for one of TensorFlow Addons or TensorFlow Similarity.

    python scripts/translate_loss.py "tfa.losses.LiftedStructLoss(margin=0.8)"
    python scripts/translate_loss.py "tfsim.losses.MultiSimilarityLoss(alpha=2, beta=40, lmda=0.5)"

The text is read, not run. Where the formula is another one, it says so and ends with 1;
docs/moving.md has the whole table. `tfa` and `tfsim`, or the libraries' whole names, tell whose
loss it is.
"""

import argparse
import ast
import sys
from collections.abc import Callable
from typing import Any, NamedTuple


class Loss(NamedTuple):
    """How a loss is translated.

    Attributes:
        arguments: their names in order, with defaults, as in its own signature.
        translate: function of the arguments by name that returns ours, or raises ValueError.
        note: what differs in value, or "".
    """

    arguments: dict[str, Any]
    translate: Callable[[dict[str, Any]], str]
    note: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("loss", help="as it stands in a program, in quotes")
    given = parser.parse_args()
    try:
        print(translated(given.loss))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def translated(text: str) -> str:
    """Our loss for a call of another library's.

    Raises:
        ValueError: no such call, an argument that cannot be read, or another formula.
    """
    library, name, values = _read(text)
    losses = LIBRARIES.get(library)
    if losses is None:
        raise ValueError(f"Expected tfa.losses.… or tfsim.losses.…. Received: {text}")
    if name not in losses:
        near = NEAR.get((library, name))
        raise ValueError(
            f"{name} has no counterpart with the same formula. "
            + (f"Near is {near}" if near else f"Known: {', '.join(sorted(losses))}")
            + ". docs/moving.md has the whole table"
        )
    loss = losses[name]
    unknown = sorted(set(values) - set(loss.arguments) - {"name"})
    if unknown:
        raise ValueError(f"{name} is not known to take {', '.join(unknown)}")
    code = loss.translate({**loss.arguments, **values})
    return f"keras_ms.{code}" + (f"  # {loss.note}" if loss.note else "")


def _read(text):
    """(library, name, arguments by name) of a call."""
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call):
        raise ValueError(f"Expected one call, such as tfa.losses.NAME(…). Received: {text}")
    parts = ast.unparse(call.func).split(".")
    library, name = _ALIASES.get(parts[0], parts[0]), parts[-1]
    arguments = list(LIBRARIES.get(library, {}).get(name, Loss({}, str)).arguments)
    try:
        values = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
        values |= dict(zip(arguments, map(ast.literal_eval, call.args), strict=False))
    except ValueError:
        raise ValueError(f"Expected numbers and texts as arguments. Received: {text}") from None
    return library, name, values


def _triplets(mining):
    def translate(values):
        if values["distance_metric"] != "squared-L2":
            raise ValueError(
                f"It works on distance_metric={values['distance_metric']!r}, keras_ms on cosines, "
                "which are as good as squared distances only. Begin with "
                f'keras_ms.TripletLoss(mining="{mining}", margin={values["margin"] / 2:g}) and '
                "measure"
            )
        if values.get("soft"):
            raise ValueError("soft=True is another formula, which keras_ms has not")
        return f'TripletLoss(mining="{mining}", margin={values["margin"] / 2:g})'

    return translate


def _cosine(code):
    def translate(values):
        if values["distance"] != "cosine":
            raise ValueError(f"keras_ms works on cosines. Received: {values['distance']!r}")
        return code(values)

    return translate


def _multi_similarity(values):
    if values["center"] != 1.0:
        raise ValueError("center other than 1 is for distances other than the cosine's")
    return (
        f"MultiSimilarityLoss(alpha={values['alpha']:g}, beta={values['beta']:g}, "
        f"threshold={values['lmda']:g}, epsilon={values['epsilon']:g})"
    )


def _hardest_triplets(values):
    strategies = values["positive_mining_strategy"], values["negative_mining_strategy"]
    if strategies != ("hard", "hard") or values["margin"] is None:
        raise ValueError(
            "Only the hardest positive with the hardest negative and a margin is the same here. "
            f"Received: {strategies[0]} positives, {strategies[1]} negatives, "
            f"margin={values['margin']}"
        )
    return f'TripletLoss(mining="hard", margin={values["margin"]:g})'


_ALIASES = {"tensorflow_addons": "tfa", "tensorflow_similarity": "tfsim"}
_SQUARED = "its value is half as large"
LIBRARIES = {
    "tfa": {
        "TripletSemiHardLoss": Loss(
            {"margin": 1.0, "distance_metric": "L2"},
            _triplets("semi_hard"),
            _SQUARED + ", the mean is over images, not over positive pairs",
        ),
        "TripletHardLoss": Loss(
            {"margin": 1.0, "soft": False, "distance_metric": "L2"}, _triplets("hard"), _SQUARED
        ),
        "LiftedStructLoss": Loss(
            {"margin": 1.0},
            lambda values: f"LiftedStructureLoss(two_sided=True, margin={values['margin']:g})",
        ),
    },
    "tfsim": {
        "MultiSimilarityLoss": Loss(
            {
                "distance": "cosine",
                "alpha": 2.0,
                "beta": 40.0,
                "epsilon": 0.1,
                "lmda": 0.5,
                "center": 1.0,
            },
            _cosine(_multi_similarity),
        ),
        "TripletLoss": Loss(
            {
                "distance": "cosine",
                "positive_mining_strategy": "hard",
                "negative_mining_strategy": "semi-hard",
                "margin": None,
            },
            _cosine(_hardest_triplets),
        ),
    },
}
# what is near a loss with another formula, and how it differs
NEAR = {
    ("tfa", "NpairsLoss"): "keras_ms.NPairLoss(regularization=0, one_pair_per_class=True), for two "
    "images a class: it takes embeddings, where NpairsLoss takes similarities",
    ("tfa", "ContrastiveLoss"): "keras_ms.ContrastiveLoss(): of negatives a hinge on the "
    "similarity, where theirs is a squared hinge on distances of pairs",
    ("tfsim", "CircleLoss"): "keras_ms.CircleLoss() with the same gamma and margin: the logarithm "
    "of the product of both sums, where theirs adds the logarithms",
}

if __name__ == "__main__":
    sys.exit(main())
