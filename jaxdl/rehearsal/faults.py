"""The faults that a rehearsal injects, as words and as changes of one host's run.

Reads from: errors, protocols, data, recipe. Used by: rehearsal.host, rehearsal.judging, cli.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from typing import Any, Literal, NamedTuple, get_args

from jaxdl.errors import ConfigError, DataError, closest
from jaxdl.protocols import Hook
from jaxdl.recipe import Recipe

__all__ = ["EXAMPLES", "Fault", "FaultKind", "check_fault", "inject", "parse_fault"]

FaultKind = Literal["kill", "slow", "absent", "code", "short"]

EXAMPLES = "kill:2@step30, slow:1, absent:3, code:1 or short:2@step20"
"""One of each kind, as they are written."""

_PAUSE = 0.05
_WITH_STEP = ("kill", "short")
_FORM = re.compile(r"([a-z]+):(\d+)(?:@step(\d+))?")


class Fault(NamedTuple):
    """What goes wrong, on which host.

    Attributes:
        kind: ``"kill"``: SIGKILL after a step; ``"slow"``: it sleeps in each step; ``"absent"``: it
            is never started; ``"code"``: its recipe file is another one; ``"short"``: its data end
            after a step.
        host: which.
        step: updates done when it happens, where the kind has one.
    """

    kind: FaultKind
    host: int
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.host}" + ("" if self.step is None else f"@step{self.step}")


def parse_fault(text: str, num_hosts: int) -> Fault:
    """Reads a fault.

    Args:
        text: such as ``"kill:2@step30"``.
        num_hosts: how many hosts there are.

    Raises:
        ConfigError: it is none, or of a host that there is not.

    Examples:
        >>> parse_fault("kill:2@step30", 4)
        Fault(kind='kill', host=2, step=30)
    """
    match = _FORM.fullmatch(text.strip())
    kinds = get_args(FaultKind)
    if match is None or match[1] not in kinds:
        word = re.match(r"[a-z]*", text.strip().lower())
        raise ConfigError(
            f"{text!r} is no fault",
            expected=EXAMPLES,
            do=closest(word[0] if word else "", kinds) + "; write KIND:HOST or KIND:HOST@stepN",
        )
    kind: Any = match[1]
    fault = Fault(kind, int(match[2]), int(match[3]) if match[3] else None)
    wrong: tuple[str, str] | None = None
    if num_hosts < 2:
        wrong = "a fault needs other hosts that notice it", "--hosts 2 or more"
    elif fault.host >= num_hosts:
        wrong = f"there is no host {fault.host}", f"a host from 0 to {num_hosts - 1}"
    elif (fault.step is None) == (kind in _WITH_STEP):
        needs = kind in _WITH_STEP
        wrong = (
            f"{kind} {'needs the step at which it happens' if needs else 'has no step'}",
            f"{kind}:{fault.host}@step20" if needs else f"{kind}:{fault.host}",
        )
    elif fault.step == 0:
        wrong = "step 0 is before the first update", "a step from 1"
    if wrong is not None:
        raise ConfigError(f"{text!r}: {wrong[0]}", expected=wrong[1], do=f"such as {EXAMPLES}")
    return fault


def check_fault(fault: Fault | None, recipe: Recipe) -> None:
    """Checks that a fault happens before the run's end.

    Args:
        fault: or none.
        recipe: of the run.

    Raises:
        ConfigError: it would come after the last step.
    """
    if fault is not None and fault.step is not None and fault.step >= recipe.steps:
        raise ConfigError(
            f"the fault {fault} comes after step {fault.step}, and the run has {recipe.steps}",
            expected=f"a step below {recipe.steps}",
            do="choose an earlier one, or raise steps",
        )


def inject(recipe: Recipe, fault: Fault | None, host: int) -> Recipe:
    """The recipe of one host, with the fault in it where it is that host's.

    Args:
        recipe: of the run.
        fault: or none.
        host: which host this is.
    """
    if fault is None or fault.host != host:
        return recipe
    if fault.kind in ("kill", "slow"):
        return dataclasses.replace(recipe, hooks=[*recipe.hooks, _Trouble(fault)])
    if fault.kind == "short" and fault.step is not None:
        train = recipe.train
        short: Any = object.__new__(type("ShortBatches", (_Ending, type(train)), {}))
        short.__dict__.update(train.__dict__, ends=fault.step, ending_host=host)
        return dataclasses.replace(recipe, train=short)
    return recipe


class _Trouble(Hook):
    """Kills its process after a step, or sleeps after each."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault

    def tick(self, step: int) -> None:
        """Makes the trouble."""
        if self._fault.kind == "slow":
            time.sleep(_PAUSE)
        elif step == self._fault.step:
            os.kill(os.getpid(), signal.SIGKILL)


class _Ending:
    """Batches that end too early, on one host."""

    ends: int
    ending_host: int

    def __getitem__(self, k: int) -> Any:
        if k >= self.ends:
            raise DataError(
                f"the data of host {self.ending_host} ran short: there is no batch {k}",
                expected=f"a batch for every step; the last one was for step {self.ends}",
                do="give every host the same number of examples",
            )
        inherited: Any = super()
        return inherited.__getitem__(k)
