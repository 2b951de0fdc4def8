"""Plans: a step compiled for a slice, with its memory and its predicted times."""

from jaxdl.tpu.plans.facts import Buffer, Facts, Memory, Plan, Times
from jaxdl.tpu.plans.planning import plan
from jaxdl.tpu.plans.roofline import predict

__all__ = ["Buffer", "Facts", "Memory", "Plan", "Times", "plan", "predict"]
