"""Write the output files of studies and scores."""

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
    """The output folder of a command, with methods that write its files."""

    @classmethod
    def of_study(cls, folder: Path, main: str, overwrite: bool) -> Output:
        """The folder of a study, which does not resume.

        Args:
            folder: the folder to write to.
            main: name of the main results file; a folder that has it holds results of the study.
            overwrite: whether to replace existing results.

        Raises:
            RunError: see `Workspace.claim`. Nothing is written yet.
        """
        output = cls(folder, Kind(main, finished=main))
        output.claim(overwrite=overwrite)
        return output

    def json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write JSON; the main results file goes last, so that a folder that has it has the rest too."""
        results.write_json(self.path / name, content)
        return self.path / name

    def csv(self, name: str, rows: Iterable[Mapping[str, object]]) -> Path:
        """Write a table with the columns of the first row; text that a spreadsheet would run as a formula is quoted."""
        rows = list(rows)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: no_formula(cell) for name, cell in row.items()} for row in rows)
        path = self.path / name
        results.write_text(path, buffer.getvalue())
        return path

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as NAME.svg and NAME.png."""
        from attention_guidance.commands.report.figures.svg import save_png, save_svg

        path = self.path / name
        # Not with_suffix: a name may contain a dot.
        save_svg(figure, path.with_name(f"{path.name}.svg"))
        save_png(figure, path.with_name(f"{path.name}.png"))


def no_formula(cell: object) -> object:
    """A cell of a table; text that a spreadsheet takes for a formula begins with an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
