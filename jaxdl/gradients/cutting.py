"""Whether a batch may be cut into parts whose losses are then added.

Reads from: errors, protocols. Used by: gradients.accumulated, gradients.reproduced.
"""

from __future__ import annotations

from jaxdl.errors import ObjectiveError
from jaxdl.protocols import Objective

__all__ = ["check_parts"]


def check_parts(objective: Objective, parts: int, call: str) -> None:
    """The objective's loss of a batch is the sum of that of its parts.

    Args:
        objective: what is to be differentiated.
        parts: how many parts the batch is cut into; 1 is the batch itself.
        call: who cuts it, as the user wrote it, for the message.

    Raises:
        ObjectiveError: the objective says that it mixes rows, and there is more than one part.

    Examples:
        >>> check_parts(Objective(None, None), 4, "accumulate(4)")
        >>> check_parts(Objective(None, None, mixes_rows=True), 1, "accumulate(1)")
    """
    if parts > 1 and objective.mixes_rows:
        raise ObjectiveError(
            f"{call} cuts the batch into {parts} parts, and this objective compares each row with "
            "all others: the parts together have another loss than the batch",
            expected="gradients.mean(), or an objective whose rows do not meet (mixes_rows=False)",
            do="save memory by a model with remat, by bfloat16 or by more devices; to compare rows "
            "within a part only, pass objective._replace(mixes_rows=False)",
        )
