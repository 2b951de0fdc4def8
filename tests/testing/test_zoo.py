"""Every broken step of the zoo is caught under its name, and its mended twin passes every check."""

from __future__ import annotations

from pathlib import Path

import broken_learning  # noqa: F401
import broken_libraries  # noqa: F401
import broken_numerics  # noqa: F401
import broken_programs  # noqa: F401
import broken_purity  # noqa: F401
import broken_randomness  # noqa: F401
import broken_sameness  # noqa: F401
import jax
import pytest
from zoo import CAGES, small_programs_cached

from jaxdl.testing import CHECKS, FINDINGS, prove


@pytest.fixture(autouse=True)
def strict_numerics():
    """Users add biases of one axis to activations of two."""
    with jax.numpy_rank_promotion("allow"), small_programs_cached():
        yield


def test_there_are_enough_mistakes():
    assert len(CAGES) >= 80


@pytest.mark.slow
@pytest.mark.parametrize("name", CAGES)
def test_the_broken_step_is_caught_and_the_mended_one_passes(name):
    animal = CAGES[name]
    check = next(check for check, names in FINDINGS.items() if animal.finding in names)
    others = [each for each in CHECKS if each != check]
    broken = prove(**{"devices": (1, 2), **animal.make(False), "skip": others})
    assert animal.finding in broken.names, str(broken)
    assert broken.names <= set(FINDINGS[check])
    found = next(each for each in broken if each.name == animal.finding)
    assert found.evidence
    assert found.mend
    assert found.where
    # The run operation by operation takes half of a proof's time, and differs in few.
    options = animal.make(True)
    skip = [*options.pop("skip", ()), *([] if check == "eager" else ["eager"])]
    mended = prove(**{"devices": (1, 2), **options, "skip": skip})
    assert mended.ok, str(mended)


def test_the_guide_names_every_finding():
    guide = (Path(__file__).parents[2] / "docs" / "proving.md").read_text()
    missing = [name for names in FINDINGS.values() for name in names if f"`{name}`" not in guide]
    assert not missing
