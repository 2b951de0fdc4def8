"""Plans for people: text, JSON and a picture."""

from jaxdl.tpu.showing import picture, rendering

__all__ = ["picture", "rendering"]
