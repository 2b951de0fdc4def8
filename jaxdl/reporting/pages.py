"""Sections as one HTML file that asks no other computer for anything.

Everything of a run's is text to the page: it is escaped, and a policy in the page forbids scripts,
requests and every style but its own.

Reads from: errors, reporting.blocks. Used by: cli, and by hand.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from jaxdl.errors import MissingExtraError
from jaxdl.reporting.blocks import Section

__all__ = ["render"]


def render(title: str, lead: str, sections: Sequence[Section], *, footer: str = "") -> str:
    """The page.

    Args:
        title: of it.
        lead: a sentence under the title.
        sections: in their order.
        footer: at its end.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    environment = _environment()
    style = resources.files("jaxdl.reporting").joinpath("templates", "page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "img-src data:",
            "media-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    page: str = environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=sections,
        footer=footer,
        policy=policy,
        style=style,
    )
    # JSON can hold halves of characters, which no file can.
    return page.encode("utf-8", "replace").decode()


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            "a report needs the library 'jinja2'",
            expected="the extra 'report'",
            do="pip install 'jaxdl[report]'",
        ) from error
    import markupsafe

    def breakable(text: str) -> Any:
        """A path that may go on in the next line after each of its parts."""
        return markupsafe.Markup("<wbr>").join(re.split(r"(?<=[/_.])(?=.)", text))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxdl.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment
