"""Generation: rows of tokens from a trained model.

Reads from: models, errors. Used by: recipes, by choice.
"""

from jaxdl.generation.beam import Beams, beam_search, row_axis
from jaxdl.generation.ctc import ctc_beam_search, ctc_greedy
from jaxdl.generation.translating import translate

__all__ = ["Beams", "beam_search", "ctc_beam_search", "ctc_greedy", "row_axis", "translate"]
