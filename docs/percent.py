"""Notebooks as pages: Python files of the percent form, `# %%`, read as Markdown."""

import re

_CELL = re.compile(r"^# %%(?: \[(\w+)\])?[^\n]*\n", re.MULTILINE)


def cells_of(text: str) -> list[tuple[str, str]]:
    """The cells of a notebook, ("markdown" or "code", its source) each.

    Example:

    >>> cells_of("# %% [markdown]\\n# # Title\\n\\n# %%\\nx = 1\\n")
    [('markdown', '# Title'), ('code', 'x = 1')]
    """
    # the first part is the header, which is for Jupyter
    _, *parts = _CELL.split(text)
    cells = []
    for kind, source in zip(parts[::2], parts[1::2]):
        source = source.strip("\n")
        if kind == "markdown":
            source = re.sub(r"^# ?", "", source, flags=re.MULTILINE)
        cells.append((kind or "code", source))
    return cells


def as_markdown(text: str) -> str:
    """A notebook as a page: its texts, and its code in blocks.

    Example:

    >>> print(as_markdown("# %% [markdown]\\n# # Title\\n\\n# %%\\nx = 1\\n"))
    # Title
    <BLANKLINE>
    ```python
    x = 1
    ```
    """
    return "\n\n".join(
        source if kind == "markdown" else f"```python\n{source}\n```"
        for kind, source in cells_of(text)
    )
