"""curves.png: what it shows of a history, and that nothing of it is cut."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from keras_ms.report.charts import close_range
from keras_ms.report.curves import write_curves

LINES = {"pooled features": 0.511, "step 0": 0.493}
SERIES = {"rate 0.001": [(0, 0.49), (0.5, 0.53), (1, 0.5)], "rate 0.1": [(0, 0.49), (1, 0.2)]}
NAN = float("nan")


def _rows(*recalls, loss=1.0):
    return [
        {"step": 100 * n, "loss": loss / n, "val_recall@1": recall, "val_recall@8": recall + 0.2}
        for n, recall in enumerate(recalls, 1)
    ]


@pytest.fixture
def charts(monkeypatch, tmp_path):
    """Draws, and returns the charts of the figure and the picture's pixels."""
    figures, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(rows, **options):
        file = tmp_path / "curves.png"
        write_curves(rows, file, "multi similarity", **options)
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("L"))
        return figures[-1].axes, pixels

    return draw


def _curves(chart):
    return {line.get_label(): np.stack(line.get_data(), axis=1).tolist() for line in chart.lines}


@pytest.mark.parametrize(
    "rows, options",
    [
        (_rows(0.5, 0.52, 0.53), {"lines": LINES, "series": SERIES, "chosen": ("rate 0.1", 1)}),
        (_rows(0.5), {"lines": LINES}),
        (_rows(0.5, 0.52, NAN), {}),
        (_rows(NAN, NAN, loss=NAN), {}),
        (_rows(0.8, 0.8, loss=0.0), {"lines": {"pooled features": 1.0}}),
        ([{"step": 1_000_000 * n, "loss": 12_345.678 * n} for n in (1, 2)], {}),
        ([], {}),
        ([], {"lines": LINES, "series": SERIES}),
        ([{"step": 1, "val_recall@1": 1.0}], {"recall_title": "Recall@K"}),
    ],
)
@pytest.mark.parametrize("ticks", ["point", "comma"])
def test_nothing_is_cut_and_shares_stay_shares(charts, rows, options, ticks, monkeypatch):
    if ticks == "comma":
        # as a locale with decimal commas writes them
        kind = matplotlib.ticker.ScalarFormatter
        plain = kind.__call__
        monkeypatch.setattr(
            kind, "__call__", lambda self, *a: plain(self, *a).replace(".", ","), raising=True
        )
    (losses, *shares), pixels = charts(rows, **options)
    edges = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(),
                            pixels[:, :2].ravel(), pixels[:, -2:].ravel()])  # fmt: skip
    assert (edges == 255).all() and (pixels < 128).any()
    assert len(shares) == (2 if "series" in options else 1)
    for chart in shares:
        low, high = chart.get_ylim()
        assert 0 <= low < high <= 1
        for line in chart.lines:
            values = np.asarray(line.get_ydata(), float)
            assert (low <= values).all() and (values <= high).all()


def test_the_axes_follow_the_data(charts):
    (losses, recalls), _ = charts(_rows(0.3, 0.31, 0.32), lines=LINES)
    low, high = recalls.get_ylim()
    # from 0.3 to 0.52 with a margin, where 0 to 1 would leave four fifths of the chart empty
    assert 0.26 < low < 0.3 and 0.52 < high < 0.56
    assert losses.get_ylim()[0] < 1 / 3 < 1 < losses.get_ylim()[1]


def test_each_value_is_drawn_where_it_is_and_what_is_missing_is_left_out(charts):
    rows = _rows(0.3, NAN, 0.32)
    del rows[2]["loss"], rows[0]["val_recall@8"]
    (losses, recalls), _ = charts(rows, lines={"step 0": 0.29, "unknown": None, "nan": NAN})
    assert _curves(losses) == {"loss": [[100, 1.0], [200, 0.5]]}
    found = _curves(recalls)
    assert found["val recall@1"] == [[100, 0.3], [300, 0.32]]
    assert found["val recall@8"] == [[300, 0.52]]
    assert [y for _, y in found["step 0: 0.290"]] == [0.29, 0.29]
    assert set(found) == {"val recall@1", "val recall@8", "step 0: 0.290"}
    assert {text.get_text() for text in recalls.get_legend().get_texts()} == set(found)


def test_between_start_and_trained(charts):
    (_, recalls, between), _ = charts(
        _rows(0.5), series_lines=LINES, series=SERIES, chosen=("rate 0.001", 0.1 + 0.4)
    )
    # the two charts may show other images
    assert not any("pooled features" in name for name in _curves(recalls))
    found = _curves(between)
    assert found["chosen"] == [[0.5, 0.53]]
    assert found["rate 0.1"] == [[0, 0.49], [1, 0.2]]
    assert {"pooled features: 0.511", "step 0: 0.493"} <= set(found)


@pytest.mark.parametrize("series", [None, SERIES])
@pytest.mark.parametrize("chosen", [("rate 0.2", 1), ("rate 0.1", 0.5)])
def test_a_chosen_point_that_is_none_is_refused(tmp_path, series, chosen):
    with pytest.raises(ValueError, match="Expected `chosen` as the name and the share"):
        write_curves(_rows(0.5), tmp_path / "a.png", "x", series=series, chosen=chosen)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    "values", [[0.5, 0.6], [1.0], [0.0], [0.0, 1.0], [0.999, 1.0], [0.3], [1e-9, 2e-9]]
)
def test_a_close_range_shows_all_and_leaves_nothing(values):
    low, high = close_range(values, lowest=0, highest=1)
    assert 0 <= low <= min(values) and max(values) <= high <= 1
    assert high - low >= 0.02 - 1e-9
    assert high - low <= max(0.02, 1.2 * (max(values) - min(values))) + 1e-9


def test_a_close_range_of_losses_and_of_nothing():
    assert close_range([], lowest=0, highest=1) == (0, 1)
    low, high = close_range([-3.0, 7.0], lowest=-np.inf, highest=np.inf)
    assert (low, high) == (-4, 8)
    low, high = close_range([1e6], lowest=0, highest=np.inf)
    assert low < 1e6 < high
