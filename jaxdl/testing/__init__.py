"""The test kit: proofs of a user's own step, assertions in chex's manner, a pytest plugin.

Reads from: tpu.budget, and its own modules. Used by: tests, cli.
"""

from jaxdl.testing.assertions import (
    assert_compiles_once,
    assert_donated,
    assert_learns,
    assert_mesh_invariant,
    assert_microbatch_invariant,
    assert_padding_invariant,
    assert_pure,
    assert_resumes_exactly,
    assert_same_program,
)
from jaxdl.testing.proving import CHECKS, prove
from jaxdl.testing.report import FINDINGS, Finding, Outcome, Report
from jaxdl.testing.sameness import Variant
from jaxdl.tpu.budget.budgets import assert_budget

__all__ = [
    "CHECKS",
    "FINDINGS",
    "Finding",
    "Outcome",
    "Report",
    "Variant",
    "assert_budget",
    "assert_compiles_once",
    "assert_donated",
    "assert_learns",
    "assert_mesh_invariant",
    "assert_microbatch_invariant",
    "assert_padding_invariant",
    "assert_pure",
    "assert_resumes_exactly",
    "assert_same_program",
    "prove",
]
