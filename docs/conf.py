"""The documentation site: `sphinx-build -W -c docs . build/site`, with the extra `docs`.

The pages are those that GitHub shows. The source folder is the project, not docs/, so that links
between docs/, CONTRIBUTING.md and the README of a folder lead to pages of the site too.
"""

import sys
from pathlib import Path

import keras_ms

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import as_restructured_text  # noqa: E402
from myst_parser.parsers.sphinx_ import MystParser  # noqa: E402
from percent import as_markdown  # noqa: E402

project = "keras_ms"
author = "the authors of keras_ms"
release = keras_ms.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
root_doc = "docs/index"
include_patterns = [
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**",
    "examples/**/README.md",
    "examples/notebooks/*.py",
    "keras_ms/**/README.md",
    "scripts/README.md",
    "tests/README.md",
]
exclude_patterns = [
    ".venv", ".git", "build", "dist", "runs", "saved_models", "docs/templates", "docs/pictures",
    "docs/*.py",
]  # fmt: skip
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".py": "notebook"}
templates_path = [str(Path(__file__).parent / "templates")]

# as GitHub names the headings that links lead to
myst_heading_anchors = 4
# what a link leads to nowhere in the site is an error of the build: -W
nitpicky = False

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
# of Keras's own methods nothing is repeated
autodoc_inherit_docstrings = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [
    "Corner cases",
    "Corner cases of every loss",
    ("Inputs", "params_style"),
    ("Inputs of every loss", "params_style"),
    "Result",
]
# docstrings mark code by single backticks
default_role = "code"
highlight_language = "none"

html_theme = "furo"
html_title = f"keras_ms {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
# index.html, which leads to docs/index.html
html_extra_path = ["front/index.html"]
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"


class NotebookParser(MystParser):
    """Reads the .py of a notebook as a page."""

    supported = ("notebook",)

    def parse(self, inputstring, document):
        super().parse(as_markdown(inputstring), document)


def _process_docstring(app, what, name, obj, options, lines):
    lines[:] = as_restructured_text(lines)


def setup(app):
    app.add_source_parser(NotebookParser)
    # before napoleon, which reads the sections
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)
