"""What the report says about the choice of the embedder and about what needs no training."""

import json

import numpy as np
import pytest
import report_pages
from report_pages import HISTORY, Page, checked_links, drawn_set

from keras_ms.report import collect_report
from keras_ms.report.charts import _tick_texts, close_range, line_chart
from keras_ms.report.choice_section import Choice, MeasuredCandidate, choice_section
from keras_ms.report.page import report_page
from keras_ms.run import facts as run_facts
from keras_ms.run.folder import RunFolder

fast_map = report_pages.fast_map

RAW, POOLED, START = {"1": 0.12, "2": 0.2}, {"1": 0.511, "2": 0.6}, {"1": 0.493, "2": 0.59}
NEW = {
    "validation": {"pooled_features": {"1": 0.4}, "step_0": {"1": 0.39}},
    "test": {"raw_pixels": RAW, "pooled_features": POOLED, "step_0": START},
}
OLD = {"raw_pixels": RAW, "pooled_features": POOLED, "before_training": START}
VALIDATED = [{"step": 10.0, "loss": 1.0, "val_recall@1": 0.38},
             {"step": 20.0, "loss": 0.9, "val_recall@1": 0.41}]  # fmt: skip


def _candidates(rates=(1e-3, 5e-4), steps=(300, 600), alphas=(0, 0.5, 1.0)):
    return [
        {"learning_rate": rate, "steps": count, "alpha": alpha,
         "recall": {"1": round(0.4931 + 0.04 * alpha - rate * count * alpha**2 / 10, 6), "2": 0.7}}
        for rate in rates for count in steps for alpha in alphas
    ]  # fmt: skip


def _choice(**changes):
    return {
        "by": "3 folds over 100 training classes",
        "pooled_features": POOLED,
        "step_0": START,
        "candidates": _candidates(),
        "chosen": 10,
    } | changes


@pytest.fixture
def run(tmp_path):
    def write(baselines=None, choice=None, test_recall=None):
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir(exist_ok=True)
        contents = {
            folder.baselines_file: baselines,
            folder.path / "choice.json": choice,
            folder.summary_file: test_recall and {"test_recall": test_recall},
        }
        for file, content in contents.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_text(json.dumps(content))
        return folder

    return write


def test_baselines_of_every_version(run):
    new = run_facts.run_baselines(run(NEW))
    old = run_facts.run_baselines(run(OLD))
    assert (
        new["test"]
        == old["test"]
        == {
            "raw_pixels": {1: 0.12, 2: 0.2},
            "pooled_features": {1: 0.511, 2: 0.6},
            "step_0": {1: 0.493, 2: 0.59},
        }
    )
    assert new["validation"] == {"pooled_features": {1: 0.4}, "step_0": {1: 0.39}}
    assert old["validation"] == {}
    assert run_facts.run_baselines(run()) == {"validation": {}, "test": {}}
    # embeddings that were not finite
    broken = {"test": {"step_0": None, "pooled_features": {"1": None}, "raw_pixels": RAW}}
    found = run_facts.run_baselines(run(broken))["test"]
    assert found == {"pooled_features": {}, "raw_pixels": {1: 0.12, 2: 0.2}}


def test_test_recalls_of_every_version(run):
    new = {"step_0": START, "last": RAW, "chosen": POOLED, "exported": POOLED}
    old = {"before_training": START, "last": RAW, "best_on_validation": POOLED}
    found = run_facts.run_test_recalls(run(test_recall=new))
    assert found.pop("exported") == {1: 0.511, 2: 0.6}
    assert found == run_facts.run_test_recalls(run(test_recall=old))
    assert run_facts.run_test_recalls(run()) == {}


def test_lines_across_the_curves_are_of_the_same_classes(run):
    on_test = [{"step": 1, "test_recall@1": 0.5}]
    names = ("pooled features", "before training")
    assert run_facts.run_baseline_lines(run(NEW), VALIDATED) == dict(zip(names, (0.4, 0.39)))
    assert run_facts.run_baseline_lines(run(NEW), on_test) == dict(zip(names, (0.511, 0.493)))
    assert run_facts.run_baseline_lines(run(OLD), on_test) == dict(zip(names, (0.511, 0.493)))
    # those of the test classes say nothing about a curve on validation classes
    assert run_facts.run_baseline_lines(run(OLD), VALIDATED) == {}
    assert run_facts.run_baseline_lines(run({"test": {"step_0": None}}), on_test) == {}


@pytest.mark.parametrize(
    "baselines, choice, recall, expected",
    [
        (NEW, _choice(pooled_features=START), {"chosen": {"1": 0.52}}, []),
        (NEW, _choice(pooled_features=START), {"chosen": {"1": 0.50}},
         ["50.0 % against 51.1 % on the test classes"]),
        (NEW, _choice(chosen=0), None,
         ["49.3 % against 51.1 % when it was chosen (3 folds over 100 training classes)"]),
        (NEW, _choice(chosen=0), {"chosen": {"1": 0.5}},
         ["49.3 % against 51.1 % when it was chosen (3 folds over 100 training classes), "
          "50.0 % against 51.1 % on the test classes"]),
        (NEW, None, {"chosen": {"1": 0.511}}, []),
        ({**NEW, "validation": {"pooled_features": {"1": 0.42}}}, None, None,
         ["41.0 % against 42.0 % on the validation classes"]),
        (OLD, None, {"best_on_validation": {"1": 0.5}, "last": {"1": 0.6}},
         ["50.0 % against 51.1 % on the test classes"]),
        (OLD, None, {"last": {"1": 0.5}}, ["50.0 % against 51.1 % on the test classes"]),
        (OLD, None, None, []),
        (None, _choice(pooled_features=None), {"chosen": {"1": 0.1}}, []),
        ({"raw_pixels": RAW}, None, {"chosen": {"1": 0.1}}, []),
    ],
)  # fmt: skip
def test_an_embedder_that_training_made_worse_is_told_in_one_sentence(
    run, baselines, choice, recall, expected
):
    found = run_facts.run_remarks(run(baselines, choice, recall), VALIDATED)
    assert len(found) == len(expected)
    for sentence, end in zip(found, expected):
        sentence = sentence.replace("\u00a0", " ")
        assert sentence.startswith("The chosen embedder finds less than the pooled features")
        assert f"need no training: Recall@1 {end}. More classes" in sentence


def test_epochs_that_diverged_do_not_hide_the_best(run):
    history = [*VALIDATED, {"step": 30.0, "loss": np.nan, "val_recall@1": np.nan}]
    baselines = {**NEW, "validation": {"pooled_features": {"1": 0.42}}}
    assert "41.0" in run_facts.run_remarks(run(baselines), history)[0]


def test_a_choice_is_read_and_its_absence(run):
    found = run_facts.run_choice(run(choice=_choice()))
    assert found.candidates[found.chosen] == MeasuredCandidate(5e-4, 600, 0.5, {1: 0.5056, 2: 0.7})
    assert found.levels() == {"pooled features": 0.511, "before training": 0.493}
    without = _choice()
    del without["pooled_features"]
    assert run_facts.run_choice(run(choice=without)).levels() == {"before training": 0.493}
    assert run_facts.run_choice(run()) is None


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"chosen": 12}, "one of 12 candidates"),
        ({"chosen": -1}, "Received: -1"),
        ({"candidates": []}, "one of 0 candidates"),
        ({"candidates": [{"steps": 3}]}, "learning_rate"),
        ({"candidates": "many"}, "TypeError"),
        ({"step_0": {"one": 0.3}}, "invalid literal"),
    ],
)
def test_a_choice_of_other_content_is_refused_by_name(run, changes, words):
    with pytest.raises(ValueError, match="choice.json is damaged or of other") as caught:
        run_facts.run_choice(run(choice=_choice(**changes)))
    assert words in str(caught.value)


def _read(run, **changes):
    return run_facts.run_choice(run(choice=_choice(**changes)))


def test_the_section_shows_curves_the_chosen_one_and_all_candidates(run):
    choice = _read(run)
    page = Page(str(choice_section(choice)))
    assert len(page.all("polyline")) == 4 and len(page.all("circle", "ring")) == 1
    assert len(page.all("line", "level")) == 2
    text = str(choice_section(choice)).replace("\u00a0", " ")
    assert "3 folds over 100 training classes" in text and "So 12 embedders" in text
    assert "Chosen: learning rate 0.0005, 600 steps, share 0.5 of the trained weights" in text
    assert "Recall@1 50.6 %; 51.1 % pooled features; 49.3 % before training" in text
    # the ring lies on the curve's own point
    ring = page.all("circle", "ring")[0]
    dots = {(dot["cx"], dot["cy"]) for dot in page.all("circle", "dot")}
    assert (ring["cx"], ring["cy"]) in dots
    rows = page.all("tr")
    assert len(rows) == 13 and len(page.all("tr", "chosen")) == 1
    assert len(page.all("details")) == 1  # a long table is folded up
    assert not page.open


def test_a_short_table_is_open_and_networks_that_are_not_mixed_have_no_chart(run):
    one = _candidates(alphas=(1.0,))
    text = str(choice_section(_read(run, candidates=one, chosen=3)))
    page = Page(text)
    assert not page.all("details") and not page.all("svg") and len(page.all("tr")) == 5
    assert "mixtures" not in text and not page.open


def test_of_many_trainings_the_chosen_and_the_best_are_drawn(run):
    many = _candidates(rates=(1e-3, 5e-4, 1e-4, 5e-5, 1e-5))
    worst = 5  # the last mixture of 0.001 and 600 steps
    choice = _read(run, candidates=many, chosen=worst)
    text = str(choice_section(choice))
    assert len(Page(text).all("polyline")) == 6 and "Of 10 trainings" in text
    assert "learning rate 0.001, 600 steps</li>" in text


def test_trainings_of_different_starts_are_told_apart(run):
    both = [{**one, "start": start} for start in ("pca", "orthogonal") for one in _candidates()]
    text = str(choice_section(_read(run, candidates=both, chosen=22)))
    page = Page(text)
    assert "Of 8 trainings" in text and len(page.all("polyline")) == 6
    assert "Chosen: orthogonal start, learning rate 0.0005, 600 steps, share 0.5" in text
    assert text.count(">pca</td>") == 12 and ">Start</th>" in text and not page.open
    same = [{**one, "start": "pca"} for one in _candidates()]
    assert "pca" not in str(choice_section(_read(run, candidates=same)))


def test_candidates_that_diverged_have_no_figure(run):
    candidates = _candidates()
    candidates[2]["recall"] = None
    candidates[5]["recall"] = {"1": float("nan"), "2": None}
    text = str(choice_section(_read(run, candidates=candidates)))
    assert text.count('<td class="number">–</td>') == 4 and "nan" not in text
    nothing = [{**one, "recall": None} for one in candidates]
    page = Page(str(choice_section(_read(run, candidates=nothing, step_0=None))))
    assert not page.all("svg") and len(page.all("tr")) == 13


def test_a_page_with_a_choice_lines_and_a_remark(run):
    embeddings, images = drawn_set()
    choice, levels = _read(run, by="<b>folds</b>"), {"pooled features": 0.9, "before training": 0.3}
    report = collect_report(
        embeddings, images, history=HISTORY, choice=choice, levels=levels,
        remarks=["Less & less <b>"],
    )  # fmt: skip
    text = report_page(report)
    page, _ = checked_links(text)
    assert 'href="#choice"' in text and "What was chosen" in text
    assert "Less &amp; less &lt;b&gt;" in text and "<b>folds" not in text
    assert "Dashed lines: Recall@1 of what needs no training" in text
    assert len(page.all("line", "level")) == 2 + 2
    plain = report_page(collect_report(embeddings, images, history=HISTORY))
    assert "#choice" not in plain and "Dashed lines" not in plain
    assert not Page(plain).all("p", "remark") and len(page.all("p", "remark")) == 1


def test_curves_fill_their_chart():
    points = [(0, 0.51), (1, 0.515), (2, 0.53)]
    chart = line_chart(
        "r",
        {"Recall@1": points},
        x_name="step",
        y_range=close_range([0.51, 0.53, 0.5], lowest=0, highest=1),
        levels={"pooled features": 0.5},
    )
    page = Page(str(chart))
    dots = [float(dot["cy"]) for dot in page.all("circle", "dot")]
    (level,) = [float(line["y1"]) for line in page.all("line", "level")]
    # of 218 units of height, from the line at the bottom to the last point at the top
    assert level - min(dots) > 150 and dots == sorted(dots, reverse=True)
    assert 12 <= min(dots) and level <= 230
    assert "pooled features: 0.500" in str(chart)


@pytest.mark.parametrize(
    "values, texts",
    [
        ([0, 0.5, 1.0], ["0.0", "0.5", "1.0"]),
        ([0.5102, 0.5104], ["0.5102", "0.5104"]),
        ([0, 20_000], ["0", "20,000"]),
        ([0, 1e7], ["0", "1e+07"]),
        ([0.00001, 0.00002], ["1e-05", "2e-05"]),
    ],
)
def test_ticks_have_as_many_digits_as_tell_them_apart(values, texts):
    assert _tick_texts(values) == texts


def test_a_choice_of_nothing_is_refused():
    with pytest.raises(ValueError, match="from 0 on. Received: 0"):
        Choice("folds", [], 0, {}, {})
