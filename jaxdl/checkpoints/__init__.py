"""A train state on disk."""

from jaxdl.checkpoints.whole import restore, save

__all__ = ["restore", "save"]
