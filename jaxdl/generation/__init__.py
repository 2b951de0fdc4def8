"""Generation: rows of tokens from a trained model.

Reads from: models, errors. Used by: recipes, by choice.
"""

from jaxdl.generation.beam import Beams, beam_search, row_axis
from jaxdl.generation.ctc import ctc_beam_search, ctc_greedy
from jaxdl.generation.generating import Generated, empty_cache, generate
from jaxdl.generation.sampling import keep_top_k, keep_top_p, sample
from jaxdl.generation.translating import translate

__all__ = [
    "Beams",
    "Generated",
    "beam_search",
    "ctc_beam_search",
    "ctc_greedy",
    "empty_cache",
    "generate",
    "keep_top_k",
    "keep_top_p",
    "row_axis",
    "sample",
    "translate",
]
