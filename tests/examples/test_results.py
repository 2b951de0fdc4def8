"""docs/results.md: every figure in its table is one that the example's own docstring states."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in (ROOT / "docs" / "results.md").read_text().splitlines()
    if line.startswith("| `")
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip("`") for row in ROWS])
def test_a_row_says_what_the_docstring_says(row):
    example, _, _, score, time = row
    file = ROOT / "examples" / example.strip("`").split()[0]
    about = ast.get_docstring(ast.parse(file.read_text())) or ""
    stated = set(numbers(about))
    assert numbers(score), "a score"
    for number in numbers(score) + numbers(time):
        assert number in stated, f"{file.name} does not state {number}"


def numbers(text: str) -> list[str]:
    """The numbers of a text as they are written, without the zeros that end a fraction."""
    found = re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", text)
    return [number.rstrip("0").rstrip(".") if "." in number else number for number in found]
