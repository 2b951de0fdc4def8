"""A run on many hosts, rehearsed by processes of one machine, with a fault or without.

``rehearse`` starts the hosts, follows them, makes one of them fail, and says what the others saw.
Nothing of it is read by a run that is no rehearsal.
"""

from __future__ import annotations

from jaxdl.rehearsal.faults import EXAMPLES, Fault, check_fault, parse_fault
from jaxdl.rehearsal.judging import HEADER, Report, Verdict, rows
from jaxdl.rehearsal.processes import Show
from jaxdl.rehearsal.running import rehearse

__all__ = [
    "EXAMPLES",
    "HEADER",
    "Fault",
    "Report",
    "Show",
    "Verdict",
    "check_fault",
    "parse_fault",
    "rehearse",
    "rows",
]
