"""Every broken step of the zoo is caught under its name, and its mended twin passes every check."""

from __future__ import annotations

import broken_learning  # noqa: F401
import broken_numerics  # noqa: F401
import broken_programs  # noqa: F401
import broken_purity  # noqa: F401
import broken_randomness  # noqa: F401
import broken_sameness  # noqa: F401
import pytest
from zoo import CAGES

from jaxdl.testing import prove


def test_there_are_enough_mistakes():
    assert len(CAGES) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("name", CAGES)
def test_the_broken_step_is_caught_and_the_mended_one_passes(name):
    animal = CAGES[name]
    broken = prove(devices=(1, 2), **animal.make(False))
    assert animal.finding in broken.names, str(broken)
    found = next(each for each in broken if each.name == animal.finding)
    assert found.evidence
    assert found.mend
    assert found.where
    mended = prove(devices=(1, 2), **animal.make(True))
    assert mended.ok, str(mended)
