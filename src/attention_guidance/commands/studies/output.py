"""The folder a study writes to."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_guidance.commands import results
from attention_guidance.commands.pretraining.settings.checks import check_writable
from attention_guidance.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Output:
    """A folder for the files of a study.

    Args:
        folder: where to.
        main: the file by which the study's results are known.
        overwrite: replace what is there.

    Raises:
        RunError: the folder is not empty, or cannot be written to. Nothing is written yet.
    """

    def __init__(self, folder: Path, main: str, overwrite: bool) -> None:
        self.folder = folder
        check_writable(folder)
        if folder.is_dir() and not overwrite and any(folder.iterdir()):
            raise RunError(
                f"--output {folder} is not empty; give another folder, or --overwrite to replace {main} and what is "
                "beside it of the same names"
            )

        if overwrite and (folder / "run.yaml").is_file() and not (folder / main).is_file():
            raise RunError(f"--output {folder} holds a run of pre-training; give another folder")

    def json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write JSON."""
        self.folder.mkdir(parents=True, exist_ok=True)
        results.write_json(self.folder / name, content)
        return self.folder / name

    def csv(self, name: str, rows: Iterable[Mapping[str, object]]) -> Path:
        """Write a table, its columns those of the first row."""
        rows = list(rows)
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(path, buffer.getvalue())
        return path

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure as NAME.svg and NAME.png."""
        from attention_guidance.commands.report.figures.svg import save_png, save_svg

        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not with_suffix: a name may have a dot of its own.
        save_svg(figure, path.with_name(f"{path.name}.svg"))
        save_png(figure, path.with_name(f"{path.name}.png"))
