"""The HTML report: its numbers, its structure, and what a browser makes of it."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from keras_ms.cli import main
from keras_ms.data.image_list import ImageList
from keras_ms.evaluation import METRICS, evaluate_embeddings, recall_at_k
from keras_ms.html_report import collect_report, embedding_map, write_report
from keras_ms.html_report.charts import _ticks
from keras_ms.html_report.contents import Report
from keras_ms.html_report.embedding_map import map_embeddings
from keras_ms.html_report.markup import tag
from keras_ms.html_report.page import report_page
from keras_ms.html_report.pair_sweep import sweep_pairs

NASTY = "<script>alert('x')</script> & \"</style>\" ]]>"
HISTORY = [
    {"epoch": e, "step": 10.0 * e, "loss": 1 / e, "val_recall@1": 1 - 0.5 / e} for e in (1, 2, 3)
]


def _set(num_classes=6, per_class=5, dimension=8, seed=0, names=None, spread=0.5):
    """Embeddings in overlapping classes, with a picture of its own colour for each image."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(num_classes), per_class)
    centres = rng.normal(size=(num_classes, dimension))
    embeddings = centres[labels] + spread * rng.normal(size=(len(labels), dimension))
    names = names or [f"class_{n}" for n in range(num_classes)]
    pixels = rng.integers(0, 256, (len(labels), 1, 1, 3), np.uint8)
    images = ImageList(
        paths=[f"{names[label]} #{n}" for n, label in enumerate(labels)],
        labels=labels,
        class_names=names,
        split=["test"] * len(labels),
        images=np.broadcast_to(pixels, (len(labels), 24, 24, 3)),
        name="drawn",
    )
    return embeddings.astype(np.float32), images


class _Page(HTMLParser):
    """Elements as (tag, attributes), the scripts' texts and what is not closed."""

    _VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.scripts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name == "script":
            self.scripts.append("")
        if name not in self._VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def all(self, name=None, class_=None):
        return [
            attributes
            for found, attributes in self.elements
            if name in (None, found) and (not class_ or class_ in attributes.get("class", "").split())
        ]


@pytest.fixture(scope="module", autouse=True)
def _fast_map():
    """PCA alone, not t-SNE, which takes its seconds: pages and links are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding_map, "_FEWEST_FOR_TSNE", 10**9)
        yield


@pytest.fixture(scope="module")
def nasty_page():
    names = [NASTY, "\u2028line", "a" * 80, "'quotes\"", "日本語", "ordinary"]
    embeddings, images = _set(names=names, spread=0.9)
    report = collect_report(
        embeddings, images, facts={"Data": NASTY}, settings={"name": NASTY}, history=HISTORY,
        title=NASTY,
    )
    return report, report_page(report)


# ---- what is measured


def test_sweep_is_that_of_the_whole_matrix_whatever_the_blocks():
    embeddings, images = _set(7, 4)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    whole = unit @ unit.T
    np.fill_diagonal(whole, -np.inf)
    same = images.labels[:, None] == images.labels
    for block_pairs in (1, 5 * len(images), 10**6):
        sweep = sweep_pairs(3 * embeddings, images.labels, 3, block_pairs=block_pairs)
        np.testing.assert_array_equal(sweep.neighbours, np.argsort(-whole, axis=1)[:, :3])
        expected = np.where(same, whole, -np.inf).max(axis=1)
        np.testing.assert_allclose(sweep.best_positive, expected, rtol=1e-5)
        expected = np.where(same, -np.inf, whole).max(axis=1)
        np.testing.assert_allclose(sweep.best_negative, expected, rtol=1e-5)
        assert sweep.positive_counts.sum() == 7 * 4 * 3
        assert sweep.negative_counts.sum() == 28 * 24
        positives = whole[same & ~np.eye(28, dtype=bool)]
        np.testing.assert_allclose(sweep.positive_mean, positives.mean(), rtol=1e-5)
        expected, _ = np.histogram(positives, sweep.edges)
        assert np.abs(sweep.positive_counts - expected).sum() <= 2  # at the edges of bins
        assert sweep.edges[0] <= whole[np.isfinite(whole)].min()
        assert sweep.edges[-1] >= whole.max()


def test_sweep_of_collapsed_and_of_zero_embeddings():
    for rows in (np.ones((6, 4)), np.zeros((6, 4))):
        sweep = sweep_pairs(rows, [0, 0, 1, 1, 2, 2])
        assert sweep.neighbours.shape == (6, 5)
        assert (sweep.neighbours != np.arange(6)[:, None]).all()
        assert sweep.negative_counts.sum() == 24


def test_a_gallery_is_searched_and_nothing_else():
    embeddings, images = _set(5, 6, spread=1.0)
    is_query = np.arange(30) % 6 < 4
    is_gallery = np.arange(30) % 6 >= 2  # two of each class are both
    images = dataclasses.replace(images, is_query=is_query, is_gallery=is_gallery)
    report = collect_report(embeddings, images, ks=(1, 3))
    assert is_gallery[report.sweep.neighbours].all()
    assert (report.sweep.neighbours != np.arange(30)[:, None]).all()
    assert ((report.ranks > 0) == is_query).all()
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    whole = unit @ unit.T
    whole[:, ~is_gallery] = whole[np.arange(30), np.arange(30)] = -np.inf
    hits = images.labels[whole.argmax(axis=1)] == images.labels
    np.testing.assert_allclose(report.metrics[0].value, hits[is_query].mean())
    assert {row.image for row in report.best_queries + report.worst_queries} <= set(
        np.flatnonzero(is_query)
    )
    text = report_page(report)
    assert "20 queries search 20 gallery images" in text
    _check_links(text)


def test_numbers_are_those_of_recall_at_k(nasty_page):
    report, text = nasty_page
    embeddings, images = _set(names=report.images.class_names, spread=0.9)
    expected = recall_at_k(embeddings, images.labels, ks=(1, 2, 4, 8))
    measured = evaluate_embeddings(embeddings, images.labels, metrics=METRICS)
    shown = [float(a["data-value"]) for a in _Page(text).all("td") if "data-value" in a]
    assert shown[:4] == list(expected.values())
    assert shown == list(measured.values.values())
    low, high = measured.intervals["recall@1"]
    assert f"{100 * low:.1f} – {100 * high:.1f}\u00a0%" in text
    assert 0 < expected[1] < 1  # else the comparison says little


def test_best_and_worst_queries_and_confusions_of_hand_made_embeddings():
    # angles on a circle: classes 0 and 1 lie mixed, class 2 far away
    angles = np.deg2rad([0, 12, 10, 22.5, 120, 121, 240])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    images = ImageList([f"{n}" for n in range(7)], [0, 0, 1, 1, 2, 2, 3], "abcd", ["test"] * 7,
                       images=np.zeros((7, 16, 16, 3), np.uint8))
    report = collect_report(embeddings, images, ks=(1, 2))
    assert [row.image for row in report.best_queries] == [5]  # one a class; 4 is nearer to 3
    assert {row.image for row in report.worst_queries} == {1, 2}  # 0 and 3 have smaller margins
    assert [row.rank for row in report.worst_queries] == [3, 3]
    (pair,) = [pair for pair in report.confusions]
    assert (pair.first, pair.second, pair.first_to_second, pair.second_to_first) == (0, 1, 2, 2)
    assert pair.share == 1 and pair.examples[0] in [(1, 2), (2, 1)]
    assert report.num_skipped == 1
    recalls = {row.label: row.recall_at_1 for row in report.classes}
    assert recalls[2] == 1 and recalls[0] == 0 and np.isnan(recalls[3])
    page = _Page(report_page(report))
    rows = [a["class"] for a in page.all("a", "shot")]
    # 6 neighbours of each query: of the worst, one of its class; likewise of the best
    assert sum("same" in row.split() for row in rows) == 3
    assert sum("other" in row.split() for row in rows) == 3 * 5


def test_the_map_keeps_neighbours_together_and_takes_few_or_equal_embeddings(monkeypatch):
    monkeypatch.setattr(embedding_map, "_FEWEST_FOR_TSNE", 10)
    embeddings, images = _set(4, 12, spread=0.05)
    places = map_embeddings(embeddings)
    assert places.min() == 0 and places.max() == 1
    assert recall_at_k(places - 0.5, images.labels, ks=(1,))[1] > 0.9
    for count in (1, 2, 5):
        assert np.isfinite(map_embeddings(embeddings[:count])).all()
    assert (map_embeddings(np.ones((20, 3))) == 0.5).all()
    assert map_embeddings(np.linspace(-1, 1, 20)[:, None]).shape == (20, 2)


def test_a_set_too_large_for_the_map_shows_a_part_with_all_that_is_linked():
    embeddings, images = _set(40, 20, spread=1.5)
    report = collect_report(embeddings, images, num_map_images=10)
    assert 10 <= len(report.map_images) < len(images)
    text = report_page(report)
    assert f"{len(report.map_images)} of the 800" in text
    _check_links(text)


@pytest.mark.parametrize("rows", [3, 31])
def test_embeddings_that_do_not_fit_the_images(rows):
    _, images = _set()
    with pytest.raises(ValueError, match="one row of `embeddings` for each image"):
        collect_report(np.ones((rows, 4)), images)


def test_nan_and_lonely_classes_are_refused():
    embeddings, images = _set()
    embeddings[3] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        collect_report(embeddings, images)
    embeddings, images = _set(5, 1)
    with pytest.raises(ValueError, match="class has another item to find"):
        collect_report(embeddings, images)


@pytest.mark.parametrize("value", ["collapsed", "perfect"])
def test_extreme_embeddings_make_a_page(value):
    embeddings, images = _set()
    embeddings = np.ones((30, 6)) if value == "collapsed" else np.eye(6)[images.labels]
    report = collect_report(embeddings, images)
    assert report.metrics[0].value == (0 if value == "collapsed" else 1)
    assert bool(report.worst_queries) == (value == "collapsed")
    _check_links(report_page(report))


@pytest.mark.parametrize("low, high", [(0, 1), (-0.31, 0.87), (0, 0.004), (0, 120_000), (3, 4)])
def test_ticks_are_round_and_few(low, high):
    ticks = _ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert low - 1e-9 <= min(ticks) and max(ticks) <= high + 1e-9
    assert all(len(f"{tick:.6g}".replace("0", "").replace("-", "")) <= 4 for tick in ticks)


# ---- the page


def _check_links(text):
    page = _Page(text)
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in page.all("a")]
    assert links and all(link.startswith("#") for link in links)
    assert not {link[1:] for link in links} - set(ids)
    data = json.loads(page.scripts[0])
    places = {int(a["data-image"]) for a in page.all("a") if "data-image" in a}
    assert all(0 <= place < len(data["x"]) for place in places)
    return page, data


def test_every_link_leads_somewhere_and_nothing_leads_out(nasty_page):
    _, text = nasty_page
    page, _ = _check_links(text)
    for _, attributes in page.elements:
        for name in ("src", "srcset", "href", "action", "poster", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    for found in re.findall(r"url\((.{5})", text):
        assert found == "data:"
    assert not re.search(r"https?:|@import|fetch\(|XMLHttp", text)
    policy = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy[0].startswith("default-src 'none'")


def test_names_from_data_are_text_and_never_markup(nasty_page):
    report, text = nasty_page
    page, data = _check_links(text)
    assert len(page.all("script")) == 2  # the map's data and its program
    assert text.count("<script") == 2 and text.count("</style>") == 2
    assert data["classes"]["0"] == NASTY and data["name"][0] == f"{NASTY} #0"
    assert tag("a", "<b>", href='"x') == '<a href="&quot;x">&lt;b&gt;</a>'


def _decoded(uri):
    assert uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")


def test_pictures_are_those_of_the_images(nasty_page):
    report, text = nasty_page
    page, data = _check_links(text)
    styles = dict(re.findall(r"\.p(\d+)\{background-image:url\((.*?)\)\}", text))
    for image, uri in styles.items():
        shown = np.asarray(_decoded(uri))[80, 80].astype(int)
        assert np.abs(shown - report.images.images[int(image), 12, 12]).max() < 12
    used = {a["class"].split()[1][1:] for a in page.all("span", "pic")}
    assert used == set(styles)
    assert all(a["aria-label"] for a in page.all("span", "pic"))
    sheets = [_decoded(a["src"]) for a in page.all("img")]
    for place, image in enumerate(report.map_images):
        row, column = divmod(place, data["side"])
        middle = np.asarray(sheets[0])[
            row * data["size"] + data["size"] // 2, column * data["size"] + data["size"] // 2
        ]
        assert np.abs(middle.astype(int) - report.images.images[image, 12, 12]).max() < 12


def test_curves_and_their_absence(nasty_page):
    report, text = nasty_page
    assert text.count("<polyline") == 2 and 'id="training"' in text
    embeddings, images = _set()
    text = report_page(collect_report(embeddings, images))
    assert "<polyline" not in text and "#training" not in text and "#settings" not in text
    # a single epoch, and one that diverged
    for history in (HISTORY[:1], [{**HISTORY[0], "loss": float("nan")}]):
        assert "nan" not in re.sub(
            "base64,[^\"')]*", "", report_page(collect_report(embeddings, images, history=history))
        )


def test_files_are_read_when_shown_and_named_when_gone(tmp_path):
    embeddings, drawn = _set(3, 3)
    paths = []
    for n, pixels in enumerate(drawn.images):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(pixels).resize((40, 30)).save(paths[-1])
    images = ImageList(paths, drawn.labels, drawn.class_names, drawn.split)
    report = collect_report(embeddings, images)
    target = tmp_path / "page" / "report.html"
    size = write_report(report, target)
    assert target.stat().st_size == size
    assert str(tmp_path) not in target.read_text()
    before = target.read_bytes()
    paths[4].write_bytes(b"no picture")
    with pytest.raises(ValueError, match="4.png"):
        write_report(report, target)
    paths[4].unlink()
    with pytest.raises(FileNotFoundError, match="4.png is gone"):
        write_report(report, target)
    assert target.read_bytes() == before and len(list(target.parent.iterdir())) == 1


# ---- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    for name in range(8):
        colour = rng.integers(0, 256, 3)
        for n in range(4):
            folder = out / "data" / f"c{name}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(colour + rng.integers(-60, 60, (20, 26, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    arguments = (
        "train --data-dir {0}/data --image-size 16 --resize-to 16 --embedding-size 8 --steps 4 "
        "--steps-per-epoch 2 --classes-per-batch 2 --images-per-class 2 --runs-folder {0}/runs "
        "--run-name run --validation-fraction 0.5"
    ).format(out).split()
    assert main([*arguments, "--export", ""]) == 0
    return out / "runs" / "run"


def test_report_of_a_run_has_the_figures_of_the_run(run, capsys):
    assert main(["report", str(run)]) == 0
    assert "Wrote" in capsys.readouterr().out
    text = (run / "report.html").read_text()
    page, data = _check_links(text)
    shown = [float(a["data-value"]) for a in page.all("td") if "data-value" in a]
    summary = json.loads((run / "summary.json").read_text())
    expected = list(summary["test_recall"]["best_on_validation"].values())
    np.testing.assert_allclose(shown[: len(expected)], expected, atol=1e-9)
    assert len(data["x"]) == 16 and "multi similarity" in text
    assert str(run.parents[1]) not in text


def test_report_of_an_unfinished_run_takes_its_best_weights(run, tmp_path, capsys):
    copy = tmp_path / "unfinished"
    shutil.copytree(run, copy)
    for name in ("embedder.keras", "summary.json"):
        (copy / name).unlink()
    target = tmp_path / "page.html"
    assert main(["report", str(copy), "--to", str(target)]) == 0
    text = target.read_text()
    assert "not finished" in text
    assert main(["report", str(run), "--to", str(tmp_path / "finished.html")]) == 0
    values = [
        re.findall(r'data-value="([^"]*)"', path.read_text())
        for path in (target, tmp_path / "finished.html")
    ]
    assert values[0] == values[1]
    (copy / "best.weights.h5").unlink()
    assert "has no weights yet" in _refusal(capsys, copy)


def _refusal(capsys, run, *more):
    capsys.readouterr()
    assert main(["report", str(run), *map(str, more)]) == 1
    return capsys.readouterr().err


def test_clear_errors(run, tmp_path, capsys):
    assert "Expected the folder of a run" in _refusal(capsys, tmp_path / "none")
    assert "file name such as report.html" in _refusal(capsys, run, "--to", tmp_path)
    assert "--map-images of at least 1" in _refusal(capsys, run, "--map-images", 0)
    assert "gone" in _refusal(capsys, run, "--data-dir", tmp_path / "gone")
    other = tmp_path / "data"
    shutil.copytree(run.parents[1] / "data", other)
    (other / "c7" / "0.png").unlink()
    assert "Expected the images of the run" in _refusal(capsys, run, "--data-dir", other)
    assert not (tmp_path / "data" / "report.html").exists()


# ---- real images, a real browser


@pytest.fixture(scope="module")
def birds_page(shared_data, tmp_path_factory):
    folder, features = shared_data / "cub200_2010", shared_data / "cub200_2010_inception_mixed8.npz"
    if not folder.is_dir() or not features.is_file():
        pytest.skip("needs cub200_2010 and its features")
    images = ImageList.from_folder(folder, check_images=False)
    with np.load(features) as arrays:
        assert (arrays["labels"] == images.labels).all()
        # of 1,280 channels; fewer make k-means faster and the page no smaller
        embeddings = arrays["features"][images.split == "test", :64].astype(np.float32)
    test = images.subset("test")
    report = collect_report(embeddings, test, history=HISTORY)
    path = tmp_path_factory.mktemp("birds") / "report.html"
    write_report(report, path)
    return path


def test_the_page_of_3043_birds_is_smaller_than_15_megabytes(birds_page):
    assert 1e6 < birds_page.stat().st_size < 15e6
    _, data = _check_links(birds_page.read_text())
    assert len(data["x"]) == 3043 and data["size"] >= 48


_PROBE = """<script>
const found = {errors: []};
addEventListener("error", (e) => found.errors.push(e.message || "resource " + e.target.outerHTML
  .slice(0, 80)), true);
addEventListener("unhandledrejection", (e) => found.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => found.errors.push(e.violatedDirective));
for (const kind of ["error", "warn"]) {
  console[kind] = (...words) => found.errors.push(words.join(" "));
}
const colours = () => {
  const canvas = document.getElementById("map-canvas");
  const paint = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const seen = new Set();
  for (let i = 0; i < paint.length; i += 4) if (paint[i + 3] > 250)
    seen.add(paint[i] + "," + paint[i + 1] + "," + paint[i + 2]);
  return seen.size;
};
addEventListener("load", () => setTimeout(() => {
  const canvas = document.getElementById("map-canvas");
  found.width = innerWidth;
  found.scrollWidth = document.documentElement.scrollWidth;
  found.wide = [...document.querySelectorAll("body *")].filter((e) =>
    e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("nav, .scroll, [hidden]"))
    .map((e) => e.outerHTML.slice(0, 90));
  found.drawn = canvas.dataset.drawn;
  found.colours = colours();
  document.querySelector("a[data-image]").click();
  found.panel = document.getElementById("map-panel").innerText;
  found.near = document.querySelectorAll("#map-panel .near button").length;
  document.querySelector("#map-panel .near button").click();
  found.next = document.getElementById("map-panel").innerText;
  document.querySelector("a[data-class]").click();
  found.chosen = document.getElementById("map-class").value;
  const key = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  ["+", "+", "ArrowLeft", "Enter"].forEach(key);
  found.entered = document.getElementById("map-panel").innerText;
  setTimeout(() => {
    found.zoomed = colours();
    parent.postMessage(encodeURIComponent(JSON.stringify(found)), "*");
  }, 500);
}, 3000));
</script>"""


# windows are at least 500 pixels wide, frames are not
_FRAME = """<!DOCTYPE html><iframe src="probed.html" width="{width}" height="900" style="border:0">
</iframe><script>addEventListener("message", (event) => {{
  document.documentElement.dataset.found = event.data;
}});</script>"""


def _browse(path, tmp_path, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome",
                                                   "google-chrome-stable"))), None)
    if browser is None:
        pytest.skip("needs Chromium or Chrome in the path")
    probed = tmp_path / "probed.html"
    probed.write_text(path.read_text().replace("<head>", "<head>" + _PROBE, 1))
    framed = tmp_path / "framed.html"
    framed.write_text(_FRAME.format(width=width))
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars",
            "--window-size=1600,1000", "--virtual-time-budget=10000", "--dump-dom",
            framed.as_uri(),
        ],
        capture_output=True, text=True, timeout=150,
    )
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(unquote(found[1]))


@pytest.mark.parametrize("width", [390, 1440])
def test_in_a_browser(birds_page, tmp_path, width):
    found = _browse(birds_page, tmp_path, width)
    assert found["errors"] == []
    assert found["width"] == width and found["scrollWidth"] == width
    assert found["wide"] == []
    assert found["drawn"] == "3043"
    # pictures, not one colour; both before and after the zoom
    assert found["colours"] > 1000 and found["zoomed"] > 1000
    assert "Most similar images" in found["panel"] and found["near"] == 6
    assert ".jpg" in found["panel"] and found["next"] != found["panel"]
    assert found["chosen"] != "" and ".jpg" in found["entered"]


def test_in_a_browser_with_names_that_are_markup(nasty_page, tmp_path):
    path = tmp_path / "page.html"
    report, _ = nasty_page
    assert isinstance(report, Report)
    write_report(report, path)
    found = _browse(path, tmp_path, 390)
    assert found["errors"] == [] and found["scrollWidth"] == 390 and found["wide"] == []
    assert found["drawn"] == "30"
