"""Tables on the standard output.

Reads from: nothing of jaxdl. Used by: cli.training, cli.measuring,
cli.comparing_runs, cli.doctor, cli.datasets, cli.judging.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["score_table", "table"]

_WIDTH = 160
_FIRST = ("loss", "accuracy", "precision", "recall", "f1")


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Prints rows as aligned columns, which wrap where the terminal is narrow.

    Args:
        rows: each of as many cells.
        header: titles of the columns.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD if header else None, show_header=bool(header))
    columns = len(header or rows[0])
    for index in range(columns):
        title = header[index] if header else ""
        made.add_column(title, no_wrap=index == 0, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    console = Console()
    # A width given to print alone is cut to that of the console, 80 where there is no terminal.
    (console if console.is_terminal else Console(width=_WIDTH)).print(made)


def score_table(scores: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints metrics as rows and splits as columns; matrices are left out.

    Args:
        scores: metrics by name, by split.
    """
    names = [
        name
        for name in sorted({name for values in scores.values() for name in values}, key=_order)
        if all(np.ndim(values.get(name, 0)) == 0 for values in scores.values())
    ]
    rows = [[name, *(_number(values.get(name)) for values in scores.values())] for name in names]
    table(rows, ["", *scores])


def _order(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
