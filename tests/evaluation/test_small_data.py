"""The cross-validation of docs/evaluation.md runs and prints what is written there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.mark.slow
def test_the_page_shows_what_it_prints(capsys):
    section = PAGE.read_text().partition("## Small data")[2]
    code, shown = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", section, re.DOTALL).groups()
    exec(compile(code, str(PAGE), "exec"), {})
    printed = capsys.readouterr().out

    def numbers(text):
        return [float(number) for number in re.findall(r"\d+\.\d+", text)]

    # One row of thirty more or less in a fold, where another version rounds otherwise.
    assert numbers(printed) == pytest.approx(numbers(shown), abs=0.04)
