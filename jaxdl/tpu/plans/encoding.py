"""A plan as JSON and back, exactly.

Reads from: errors, tpu.plans.facts, tpu.programs.flops, tpu.programs.hlo, tpu.slices.names.
Used by: tpu.showing.rendering.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdl.errors import PlanError
from jaxdl.tpu.plans.facts import Buffer, Facts, Memory, Plan, Times
from jaxdl.tpu.programs.flops import Flops
from jaxdl.tpu.programs.hlo import Collective
from jaxdl.tpu.slices.names import Topology, parse_topology

__all__ = ["FORMAT", "VERSION", "as_json", "from_json"]

FORMAT = "jaxdl plan"
VERSION = 1


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan of dicts, lists, text and numbers alone.

    Beside what ``from_json`` reads it holds ``fits``. The groups of collectives, which repeat, are
    listed once under ``groups``.

    Args:
        plan: the plan.
    """
    facts = plan.facts
    groups = list(dict.fromkeys(each.group for each in facts.collectives))
    number = {group: place for place, group in enumerate(groups)}
    collectives = [{**each._asdict(), "group": number[each.group]} for each in facts.collectives]
    written = {
        **_fields(facts),
        "topology": _slices(facts.topology),
        "memory": _fields(facts.memory),
        "buffers": [_fields(each) for each in facts.buffers],
        "collectives": _plain(collectives),
        "flops": _plain(facts.flops._asdict()),
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "fits": plan.fits,
        "facts": written,
        "groups": _plain(groups),
        "times": None if plan.times is None else _fields(plan.times),
    }


def from_json(data: Mapping[str, Any]) -> Plan:
    """The plan that ``as_json`` wrote.

    Args:
        data: what ``json.loads`` gives.

    Raises:
        PlanError: it is no plan, of another version, or damaged.
    """
    _check(data)
    try:
        facts, groups = dict(data["facts"]), [tuple(group) for group in data["groups"]]
        facts |= {
            "topology": parse_topology(facts["topology"]),
            "memory": Memory(**facts["memory"]),
            "buffers": tuple(Buffer(**_frozen(each)) for each in facts["buffers"]),
            "collectives": tuple(
                Collective(**{**_frozen(each), "group": groups[each["group"]]})
                for each in facts["collectives"]
            ),
            "flops": Flops(**_frozen(facts["flops"])),
            "notes": tuple(facts["notes"]),
        }
        times = data["times"]
        return Plan(Facts(**facts), None if times is None else Times(**_frozen(times)))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise PlanError(
            f"the plan cannot be read: {type(error).__name__}: {error}",
            expected=f"what as_json wrote, version {VERSION}",
            do="make the plan again",
        ) from error


def _check(data: Mapping[str, Any]) -> None:
    found = data.get("format"), data.get("version")
    if found != (FORMAT, VERSION):
        raise PlanError(
            f"this is {found[0]!r}, version {found[1]!r}",
            expected=f"{FORMAT!r}, version {VERSION}",
            do="make the plan again, with this version of jaxdl",
        )


def _slices(topology: Topology) -> str:
    """With its shape, which the name of a slice need not tell."""
    sides = "x".join(map(str, topology.shape))
    return f"{topology.num_slices}x {topology.chip.name}:{sides}"


def _fields(value: Any) -> dict[str, Any]:
    own = (each.name for each in dataclasses.fields(value))
    return {name: _plain(getattr(value, name)) for name in own}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


def _frozen(value: Any) -> Any:
    """Lists as tuples."""
    if isinstance(value, dict):
        return {key: _frozen(inner) for key, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
