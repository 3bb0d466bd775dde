"""Tables as csv and as LaTeX: any text in, nothing out that TeX would run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rddkit import tables

ESCAPED = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\n": " ",
}


@dataclass(frozen=True)
class Table:
    """A table of the write-up: its file name, what it shows, its columns and rows as text."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def csv(self) -> str:
        return "".join(tables.csv_line(list(row)) for row in (self.columns, *self.rows))

    @property
    def tex(self) -> str:
        """A `table` that needs no package: text left, numbers right."""
        sides = "".join("r" if self._is_numbers(place) else "l" for place in range(len(self.columns)))
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(self.caption)}}}"]
        lines += [rf"\label{{tab:{self.name.replace('_', '-')}}}", rf"\begin{{tabular}}{{{sides}}}", r"\hline"]
        lines += [_row(self.columns), r"\hline", *map(_row, self.rows), r"\hline"]
        return "\n".join([*lines, r"\end{tabular}", r"\end{table}", ""])

    def _is_numbers(self, place: int) -> bool:
        cells = [row[place] for row in self.rows if row[place]]
        return bool(cells) and all(cell.replace(".", "", 1).lstrip("-").isdigit() for cell in cells)


def escape(text: str) -> str:
    """Text that TeX prints and does not run."""
    return "".join(ESCAPED.get(letter, letter) for letter in text if letter == "\n" or letter.isprintable())


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
