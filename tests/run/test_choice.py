"""Which weights count: the best of the candidates, its file and its table."""

import json
import math

import pytest

from keras_ms.run.choice import MeasuredWeights, WeightsChoice, best_of, choice_table


def candidate(value, alpha=1.0, rate=1e-4, start="pca", steps=600):
    return MeasuredWeights(steps, alpha, {1: value, 4: min(1.0, value + 0.2)}, start, rate)


GRID = [
    candidate(value, alpha, rate, start)
    for start, rate, values in (
        ("pca", 1e-4, (0.50, 0.55, 0.52)),
        ("pca", 5e-4, (0.50, 0.57, 0.41)),
        ("whitened", 1e-4, (0.54, 0.56, 0.53)),
        ("whitened", 5e-4, (0.54, math.nan, math.nan)),
    )
    for alpha, value in zip((0.0, 0.5, 1.0), values)
]
FOLDS = WeightsChoice("3 folds over 40 training classes", GRID, GRID[4], {1: 0.51, 4: 0.7})

ON_THE_WAY = [
    *(candidate(v, steps=s) for s, v in ((100, 0.6), (200, 0.58))),
    *(candidate(v, alpha=a, steps=300) for a, v in ((0.0, 0.5), (0.5, 0.57), (1.0, 0.55))),
]
STEPS = WeightsChoice("10 held-out classes", ON_THE_WAY, ON_THE_WAY[0], None)


def test_the_highest_recall_at_1_is_best_and_nan_is_lowest():
    assert best_of(GRID) is GRID[4]
    assert candidate(math.nan).value == -1.0 and candidate(0.3).value == 0.3
    assert best_of([candidate(math.nan, 0.5), candidate(0.0)]).recall[1] == 0.0
    # Recall@4 does not decide
    better_at_4 = MeasuredWeights(600, 1.0, {1: 0.3, 4: 1.0}, "pca", 1e-4)
    assert best_of([better_at_4, candidate(0.31)]).value == 0.31


@pytest.mark.parametrize(
    "first, second",
    [
        (candidate(0.5, alpha=0.0, rate=5e-4), candidate(0.5, alpha=0.125, rate=1e-4)),
        (candidate(0.5, rate=1e-4, start="whitened"), candidate(0.5, rate=5e-4, start="pca")),
    ],
    ids=["alpha", "rate"],
)
def test_of_equals_the_nearest_to_the_start(first, second):
    assert best_of([first, second]) is best_of([second, first]) is first


def test_of_starts_that_are_equal_the_first_one_is_chosen():
    # they are tried in the order of what is usually best
    whitened, pca = candidate(0.5, start="whitened"), candidate(0.5, start="pca")
    assert best_of([whitened, pca]) is whitened and best_of([pca, whitened]) is pca


def test_the_ends_of_the_chosen_training():
    assert FOLDS.at_start() is GRID[3] and FOLDS.last(600) is GRID[5]
    assert STEPS.at_start() is ON_THE_WAY[2] and STEPS.last(300) is ON_THE_WAY[4]


def test_series_are_the_trainings_measured_between_their_ends():
    series = FOLDS.series()
    assert list(series) == [
        "pca, rate 0.0001, 600 steps", "pca, rate 0.0005, 600 steps",
        "whitened, rate 0.0001, 600 steps", "whitened, rate 0.0005, 600 steps",
    ]  # fmt: skip
    assert series["pca, rate 0.0005, 600 steps"] == [(0.0, 0.5), (0.5, 0.57), (1.0, 0.41)]
    assert FOLDS.place() == ("pca, rate 0.0005, 600 steps", 0.5)
    # a step on the way has no place between the ends of the last ones
    assert list(STEPS.series()) == ["pca, rate 0.0001, 300 steps"]
    assert STEPS.place() is None


@pytest.mark.parametrize("choice", [FOLDS, STEPS], ids=["folds", "steps"])
def test_json_gives_the_choice_back(choice):
    text = json.dumps(choice.to_json())
    found = WeightsChoice.from_json(json.loads(text))
    assert repr(found) == repr(choice)  # NaN is not equal to itself
    assert found.chosen is found.candidates[choice.candidates.index(choice.chosen)]
    assert json.loads(text)["step_0"] == {"1": 0.5, "4": 0.7}


def test_the_table_has_a_row_for_each_training_and_brackets_the_chosen():
    lines = choice_table(FOLDS).splitlines()
    assert lines[0].split() == "Recall@1 by 3 folds over 40 training classes α 0 α 0.5 α 1".split()
    assert lines[1].split() == ["pooled", "features", "0.510"]
    assert [line.split()[-3:] for line in lines[2:]] == [
        ["0.500", "0.550", "0.520"], ["0.500", "[0.570]", "0.410"],
        ["0.540", "0.560", "0.530"], ["0.540", "nan", "nan"],
    ]  # fmt: skip
    assert "".join(lines).count("[") == 1
    assert len({len(line) for line in lines if "α" in line or "rate" in line}) == 1


def test_the_table_puts_steps_on_the_way_under_the_trained_weights():
    lines = choice_table(STEPS).splitlines()
    assert "pooled features" not in choice_table(STEPS)
    cells = [line.split("steps")[1].split() for line in lines[1:]]
    assert cells == [["[0.600]"], ["0.580"], ["0.500", "0.570", "0.550"]]
    assert lines[1].endswith("[0.600]") and len(lines[1]) == len(lines[3])


def test_the_table_without_interpolation_has_one_column():
    candidates = [candidate(0.5, alpha=0.0, steps=0), candidate(0.6, steps=100)]
    choice = WeightsChoice("10 held-out classes", candidates, candidates[0], None)
    lines = choice_table(choice).splitlines()
    assert "α" not in lines[0]
    assert [line.split()[-1] for line in lines[1:]] == ["[0.500]", "0.600"]
