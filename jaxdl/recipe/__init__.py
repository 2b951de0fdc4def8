"""The parts of a run by name, and the one place where they are put together."""

from jaxdl.recipe.parts import Recipe
from jaxdl.recipe.running import Outcome, Placed, Scores, place, score, train

__all__ = ["Outcome", "Placed", "Recipe", "Scores", "place", "score", "train"]
