"""The step: objective, gradient and optimizer composed into pure functions."""

from jaxdl.step.inference import PredictStep, make_eval_step, make_predict_step
from jaxdl.step.train import make_train_step

__all__ = ["PredictStep", "make_eval_step", "make_predict_step", "make_train_step"]
