"""The packages of the extras `search` and `ray`."""

import importlib
from typing import Any


def import_search_package(name: str, extra: str = "search") -> Any:
    """Imports a package of an extra, or says how to install it.

    Args:
        name: of the module, such as "pyarrow.parquet".
        extra: of setup.cfg, which has its package.

    Raises:
        ImportError: it is not there; the message has the command.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This needs the package {name.partition('.')[0]!r}, which could not be imported "
            f'({error}). Install what it needs with: pip install -e ".[{extra}]"'
        ) from error
