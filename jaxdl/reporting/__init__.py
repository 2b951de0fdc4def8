"""The page of a run: what it was, how it went, what it got wrong, in one file."""

from jaxdl.reporting.blocks import Section
from jaxdl.reporting.classes import Classified, classify
from jaxdl.reporting.comparing import comparison_page
from jaxdl.reporting.pages import render
from jaxdl.reporting.reading import RunFolder, read_run
from jaxdl.reporting.rows import Explained, FewRows, Rows, Worst
from jaxdl.reporting.sections import run_page

__all__ = [
    "Classified",
    "Explained",
    "FewRows",
    "Rows",
    "RunFolder",
    "Section",
    "Worst",
    "classify",
    "comparison_page",
    "read_run",
    "render",
    "run_page",
]
