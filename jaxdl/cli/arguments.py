"""The words of a command, checked before anything heavy is imported.

Reads from: errors. Used by: cli.training, cli.planning, cli.rehearsing.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxdl.errors import ConfigError

__all__ = ["check_file_first"]


def check_file_first(argv: Sequence[str], usage: str, example: str) -> None:
    """Checks that the first word of a command is a file.

    Args:
        argv: the words after the verb.
        usage: of the command.
        example: of it, which works.

    Raises:
        ConfigError: there is no word, or it is an option.
    """
    if not argv or argv[0].startswith("-"):
        verb = usage.partition(" FILE")[0]
        raise ConfigError(
            f"{verb} was given no file" + (f", but {argv[0]!r}" if argv else ""),
            expected=usage,
            do=f"put the file first: {example}",
        )
