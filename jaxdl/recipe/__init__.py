"""The parts of a run by name, and the one place where they are put together."""

from jaxdl.recipe.crossing import CrossValidated, cross_validate
from jaxdl.recipe.parts import Recipe
from jaxdl.recipe.placing import Placed, place, train_step
from jaxdl.recipe.predicting import Predictions, predict_split
from jaxdl.recipe.resuming import check_position, position
from jaxdl.recipe.running import Outcome, Scores, score, train

__all__ = [
    "CrossValidated",
    "Outcome",
    "Placed",
    "Predictions",
    "Recipe",
    "Scores",
    "check_position",
    "cross_validate",
    "place",
    "position",
    "predict_split",
    "score",
    "train",
    "train_step",
]
