"""Every example in a docstring runs, and prints what it says."""

from __future__ import annotations

import doctest
import importlib

import pytest
from ranks import PACKAGE, dotted, modules

WITH_EXAMPLES = [path for path in modules() if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=dotted)
def test_examples_in_docstrings(path):
    module = importlib.import_module(dotted(path))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def test_there_are_examples():
    assert len(WITH_EXAMPLES) >= 10
    assert PACKAGE.name == "jaxdl"
