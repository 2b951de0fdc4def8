"""The parts of a run by name, and the one place where they are put together."""

from jaxdl.recipe.parts import Recipe
from jaxdl.recipe.placing import Placed, place, train_step
from jaxdl.recipe.resuming import check_position, position
from jaxdl.recipe.running import Outcome, Scores, score, train

__all__ = [
    "Outcome",
    "Placed",
    "Recipe",
    "Scores",
    "check_position",
    "place",
    "position",
    "score",
    "train",
    "train_step",
]
