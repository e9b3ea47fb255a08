"""A table on a terminal, with any number of rows."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from rich.cells import set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from pyvirhost.cli.text import printable
from pyvirhost.cli.top.model import State
from pyvirhost.cli.top.rows import GAP, Column, Row, fitting

STYLES = {State.WAITING: Style(dim=True), State.FRESH: Style(), State.PARTIAL: Style(),
          State.STALE: Style(dim=True), State.FAILED: Style(color="red")}
# Not reversed, which would invert a graph.
CURSOR = Style(bgcolor="grey27", bold=True)


class Table(ScrollView, can_focus=True):
    """Rows of text under a line of titles. Only rows in sight are ever made.

    So a thousand rows cost as much as forty, and unchanged lines are not redrawn.
    """

    DEFAULT_CSS = "Table { overflow-x: hidden; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(-1)", show=False), Binding("down", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False), Binding("pagedown", "page(1)", show=False),
        Binding("home", "move(-1000000000)", show=False),
        Binding("end", "move(1000000000)", show=False),
    ]

    class Chosen(Message):
        """The user chose a row to see more about it."""

        def __init__(self, row: Any) -> None:
            super().__init__()
            self.row = row

    def __init__(self, columns: Sequence[Column], *, id: str) -> None:
        super().__init__(id=id)
        self.columns = columns
        self.rows: Sequence[Any] = ()
        self.make: Callable[[Any], Row] = lambda row: row
        self.made: dict[int, Row] = {}
        self.titles: dict[str, str] = {}
        self.cursor = 0
        self.moved = False
        """Whether the user has moved to a row, which the cursor then follows."""

    @property
    def selected(self) -> Any:
        """The row under the cursor, if any."""
        return self.rows[self.cursor] if self.rows else None

    def show(self, rows: Sequence[Any], make: Callable[[Any], Row] = lambda row: row) -> None:
        """Show rows, each as the text that `make` returns for it."""
        selected, cursor, before = self.selected, self.cursor, self.made
        if len(rows) != len(self.rows):
            self.virtual_size = Size(0, len(rows) + 1)
            before = {}
        self.rows, self.make = rows, make
        self.cursor = max(0, min(cursor, len(rows) - 1))
        if self.moved and selected is not None:
            with suppress(ValueError):
                self.cursor = rows.index(selected)
        self.made = {index: self.row(index) for index in self.in_sight() if index < len(rows)}
        if not before:
            self.refresh()
        for index, row in self.made.items():
            if before.get(index) != row or (index == cursor) != (index == self.cursor):
                self.refresh_line(index + 1)
        if self.moved and self.cursor != cursor:
            self.follow()

    def row(self, index: int) -> Row:
        """Return the text of a row, or a row that says why it can't be made."""
        try:
            return self.make(self.rows[index])
        except Exception as error:
            return Row({}, {}, State.FAILED, printable(f"{type(error).__name__}: {error}"))

    def title(self, titles: dict[str, str]) -> None:
        """Show other titles for some columns, given by name."""
        if titles != self.titles:
            self.titles = titles
            self.refresh()

    def in_sight(self) -> range:
        """Return the numbers of the rows in sight, as if there were rows enough."""
        start = self.scroll_offset.y
        return range(start, start + max(self.size.height - 1, 0))

    def follow(self) -> None:
        """Scroll until the cursor is in sight."""
        rows = self.in_sight()
        if self.cursor < rows.start:
            self.scroll_to(y=self.cursor, animate=False, immediate=True)
        elif self.cursor >= rows.stop:
            self.scroll_to(y=self.cursor - len(rows) + 1, animate=False, immediate=True)

    def action_move(self, rows: int) -> None:
        """Move the cursor; in the first row it stays put, whichever host is there."""
        earlier = self.cursor
        self.cursor = max(0, min(earlier + rows, len(self.rows) - 1))
        self.moved = self.cursor > 0
        for index in (earlier, self.cursor):
            self.refresh_line(index + 1)
        self.follow()

    def action_page(self, pages: int) -> None:
        """Move the cursor by as many rows as are in sight."""
        self.action_move(pages * len(self.in_sight()))

    def action_choose(self) -> None:
        """Post that the user chose the row under the cursor."""
        if self.rows:
            self.post_message(self.Chosen(self.selected))

    def on_click(self, event: Click) -> None:
        """Move the cursor to where the mouse is."""
        row = self.scroll_offset.y + event.y - 1
        if event.y > 0 and row < len(self.rows):
            self.action_move(row - self.cursor)

    def on_resize(self) -> None:
        """Redraw everything."""
        self.made = {}
        self.virtual_size = Size(0, len(self.rows) + 1)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Return a line of the visible part."""
        width = self.size.width
        base = self.rich_style
        columns = fitting(self.columns, width)
        if y == 0:
            titles = {column.name: self.titles.get(column.name, column.title)
                      for column in columns}
            return line(columns, Row(titles), base + Style(bold=True, color="cyan"), width)
        index = self.scroll_offset.y + y - 1
        if index >= len(self.rows):
            return Strip.blank(width, base)
        row = self.made.get(index)
        if row is None:
            row = self.made[index] = self.row(index)
        style = base + STYLES[row.state]
        if index == self.cursor:
            style += CURSOR
        return line(columns, row, style, width)


def line(columns: Sequence[Column], row: Row, style: Style, width: int) -> Strip:
    """Return a row as a line, with its message where its cells end."""
    segments = []
    for column in columns:
        if column.name not in row.cells and row.message:
            segments.append(Segment(row.message, style))
            break
        # set_cell_size counts in cells, since a text may hold characters of double width.
        text = row.cells.get(column.name, "")
        if not column.left:
            text = text.rjust(column.width)
        # Stale figures have no colours.
        colour = row.colours.get(column.name) if row.state is not State.STALE else None
        segments.append(Segment(set_cell_size(text, column.width),
                                style + Style(color=colour) if colour else style))
        segments.append(Segment(" " * GAP, style))
    return Strip(segments).adjust_cell_length(width, style)
