"""Budgets: what a step may take of a slice, held in a user's tests."""

from jaxdl.tpu.budget.budgets import BudgetError, assert_budget
from jaxdl.tpu.budget.measured import write_measured

__all__ = ["BudgetError", "assert_budget", "write_measured"]
