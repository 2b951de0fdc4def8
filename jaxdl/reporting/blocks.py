"""What a page is made of: sections of paragraphs, tables, figures and cards, without any markup.

Reads from: nothing of jaxdl. Used by: the rest of reporting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, TypeAlias

__all__ = [
    "Block",
    "Card",
    "Cards",
    "Code",
    "Drawing",
    "Facts",
    "Figure",
    "Figures",
    "Picture",
    "Piece",
    "Section",
    "Shape",
    "Sound",
    "Table",
    "Text",
]


class Shape(NamedTuple):
    """One element of a drawing.

    Attributes:
        tag: of SVG.
        attributes: by name; numbers are written as they are.
        text: inside it.
    """

    tag: str
    attributes: Mapping[str, str | float]
    text: str = ""


class Drawing(NamedTuple):
    """Shapes in the order in which they are painted.

    Attributes:
        width: in pixels, where the page has room.
        height: in pixels.
        shapes: what is drawn. Colours are classes of the page's style.
    """

    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        words: of it.
        quiet: a remark, or why something is missing.
    """

    kind: ClassVar[str] = "text"
    words: str
    quiet: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values side by side.

    Attributes:
        rows: of names and values.
    """

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        caption: what it shows.
        header: titles of the columns.
        rows: cells.
        heat: how dark a cell is, from 0 to 10, for every cell but those of the first column.
        fold: the words behind which it is hidden until asked for.
        left: the columns of words; other columns but the first hold numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    heat: Sequence[Sequence[int]] = ()
    fold: str = ""
    left: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing, its caption, and what it shows in words for those who do not see it.

    Attributes:
        title: its name.
        alt: what it shows, in words.
        caption: how to read it.
        drawing: the shapes.
        legend: the lines' names, and the numbers of their colours.
    """

    kind: ClassVar[str] = "figure"
    title: str
    alt: str
    caption: str
    drawing: Drawing
    legend: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Figures:
    """Figures side by side, where there is room.

    Attributes:
        figures: in their order.
    """

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Code:
    """Text as it stands in a file.

    Attributes:
        title: what it is.
        text: of it.
    """

    kind: ClassVar[str] = "code"
    title: str
    text: str


class Picture(NamedTuple):
    """An image of an example.

    Attributes:
        uri: ``data:image/png;base64,...``.
        alt: what it is, in words.
        caption: under it.
        width: in pixels of the file.
        height: in pixels of the file.
    """

    uri: str
    alt: str
    caption: str
    width: int
    height: int


class Sound(NamedTuple):
    """A recording of an example.

    Attributes:
        uri: ``data:audio/wav;base64,...``.
        caption: what it is.
    """

    uri: str
    caption: str


class Piece(NamedTuple):
    """A piece of a text and how much it weighed.

    Attributes:
        text: of it.
        heat: from 0 to 10.
    """

    text: str
    heat: int = 0


@dataclass(frozen=True)
class Card:
    """One example.

    Attributes:
        title: what it is called.
        facts: names and values.
        pictures: of it.
        sounds: of it.
        texts: names, and pieces of text.
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    sounds: Sequence[Sound] = ()
    texts: Sequence[tuple[str, Sequence[Piece]]] = ()


@dataclass(frozen=True)
class Cards:
    """Examples.

    Attributes:
        cards: one an example.
    """

    kind: ClassVar[str] = "cards"
    cards: Sequence[Card]


Block: TypeAlias = Text | Facts | Table | Figure | Figures | Code | Cards


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its address in the page.
        title: its heading.
        blocks: what is in it.
    """

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
