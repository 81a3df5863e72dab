"""The files that studies and scores write into their folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.commands import results
from attention_guidance.commands.workspace import Kind, Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Output(Workspace):
    """A command's folder, and the files in it."""

    @classmethod
    def of_study(cls, folder: Path, main: str, overwrite: bool) -> Output:
        """The folder of a study, which does not resume.

        Args:
            folder: where to.
            main: the file by which the study's results are known.
            overwrite: replace what is there.

        Raises:
            RunError: see `Workspace.claim`. Nothing is written yet.
        """
        output = cls(folder, Kind(main, finished=main))
        output.claim(overwrite=overwrite)
        return output

    def json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write JSON."""
        self.path.mkdir(parents=True, exist_ok=True)
        results.write_json(self.path / name, content)
        return self.path / name

    def csv(self, name: str, rows: Iterable[Mapping[str, object]]) -> Path:
        """Write a table, its columns those of the first row; text that a spreadsheet takes for a formula is quoted."""
        rows = list(rows)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _no_formula(cell) for name, cell in row.items()} for row in rows)
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(path, buffer.getvalue())
        return path

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as NAME.svg and NAME.png."""
        from attention_guidance.commands.report.figures.svg import save_png, save_svg

        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not with_suffix: a name may have a dot of its own.
        save_svg(figure, path.with_name(f"{path.name}.svg"))
        save_png(figure, path.with_name(f"{path.name}.png"))


def _no_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
