"""The HTML report of real images, and in a real browser."""

import json
import re
import shutil
import subprocess
from urllib.parse import unquote

import numpy as np
import pytest
import report_pages
from report_pages import HISTORY, checked_links

from keras_ms.data.image_list import ImageList
from keras_ms.report import collect_report, write_report

pytestmark = pytest.mark.slow

fast_map = report_pages.fast_map
nasty_page = report_pages.nasty_page


@pytest.fixture(scope="module")
def birds_page(fast_map, shared_data, tmp_path_factory):
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
    _, data = checked_links(birds_page.read_text())
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
    browser = next(
        filter(
            None,
            map(
                shutil.which,
                ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
            ),
        ),
        None,
    )
    if browser is None:
        pytest.skip("needs Chromium or Chrome in the path")
    probed = tmp_path / "probed.html"
    probed.write_text(path.read_text().replace("<head>", "<head>" + _PROBE, 1))
    framed = tmp_path / "framed.html"
    framed.write_text(_FRAME.format(width=width))
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--hide-scrollbars",
            "--window-size=1600,1000",
            "--virtual-time-budget=10000",
            "--dump-dom",
            framed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=1800,
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
    write_report(report, path)
    found = _browse(path, tmp_path, 390)
    assert found["errors"] == [] and found["scrollWidth"] == 390 and found["wide"] == []
    assert found["drawn"] == "30"
