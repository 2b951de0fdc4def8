"""The command line: verbs over recipes."""

from jaxdl.cli.verbs import main

__all__ = ["main"]
