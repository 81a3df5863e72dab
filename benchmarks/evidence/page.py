"""Write the page of all studies from the kept results alone: the same results give the same page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

from attention_guidance.commands.pretraining.settings.config import make_config

from . import abstract, asked
from .defaults import STUDIED
from .intro import ABSTRACT, ASKED, DEFAULTS, INTRO
from .studies import every_study, get_study
from .studies.which_guidance import others
from .study import Kept, Record, Study

#: In place of a verdict, as long as runs are missing.
OPEN = "open"
_WIDTH = 120


def listing(kept: Kept) -> str:
    """Every study with its claim, the number of its runs and their time."""
    lines = []
    for study in every_study():
        specs, left = study.runs(kept, study.seeds), study.left(kept)
        hours = sum(map(_seconds, kept.of(specs))) / 3600
        lines += [
            f"{study.name}: {study.claim}",
            f"  {len(specs)} runs, {len(specs) - len(left)} kept ({hours:.2f} core-hours measured), {len(left)} left "
            f"({len(left) * study.run_seconds / 3600:.2f} core-hours estimated)",
        ]
    return "\n".join(lines) + "\n"


def _seconds(record: Record) -> float:
    return float(record["cpu_seconds"])


def _filled(text: str) -> str:
    """A paragraph or the items of a list, wrapped."""
    return "\n".join(
        fill(
            line,
            _WIDTH,
            subsequent_indent="  " if line.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (rows[0], ["---"] * len(rows[0]), *rows[1:])]


def section_lines(study: Study, kept: Kept) -> Iterator[str]:
    """What the kept results of a study say, as lines of Markdown."""
    yield from (f"## {study.name}", "", _filled(f"**Claim.** {study.claim}"), "")
    yield from (_filled(f"**Test.** {study.method}"), "")
    specs = study.runs(kept, kept.seeds)
    records = kept.of(specs)
    rule = (_filled(f"*Rule.* {study.rule}"), "", _filled(f"*Not tried.* {study.not_tried}"), "")
    if not records:
        yield from ("**Not run yet.**", "", *rule, _command(study))
        return
    section, left = study.section(kept), study.left(kept)
    for number, rows in enumerate(rows for rows in section.tables if len(rows) > 1):
        yield from markdown(rows)
        yield ""
        if number == 0:
            for name in section.figures:
                yield from (f"![{study.name}: {name}](evidence-{study.name}-{name}.svg)", "")
    so_far = f" ({len(left)} runs are still to be made.) So far:" if left else ""
    yield from (_filled(f"**Verdict: {_verdict(study, kept)}.**{so_far} {section.because}"), "")
    yield from rule
    precisions = ", ".join(sorted({record["precision"] for record in records if "precision" in record}))
    hours = sum(map(_seconds, records)) / 3600
    yield f"{len(records)} runs ({precisions or 'all diverged'}), {hours:.2f} core-hours. {_command(study)}"


def _verdict(study: Study, kept: Kept) -> str:
    """The verdict of the study's rule, once all of its runs are made."""
    return OPEN if study.left(kept) else study.section(kept).verdict


def _command(study: Study) -> str:
    return f"Again: `python -m benchmarks.evidence run {study.name}`"


def page_text(kept: Kept) -> str:
    """The whole page."""
    rows = [["study", "claim", "verdict"]]
    rows += [[f"[{study.name}](#{study.name})", study.claim, _verdict(study, kept)] for study in every_study()]
    sections = [line for study in every_study() for line in ("", *section_lines(study, kept))]
    intro = "\n\n".join(["# Evidence", *map(_filled, INTRO)])
    return "\n".join([intro, "", *markdown(rows), *_asked(kept), *_abstract(kept), *sections, *_defaults(kept), ""])


def _asked(kept: Kept) -> Iterator[str]:
    yield from ("", "## What was asked and what was seen", "", _filled(ASKED), "", *markdown(asked.rows(kept)))


def _abstract(kept: Kept) -> Iterator[str]:
    rows = abstract.rows(lambda name: _verdict(get_study(name), kept))
    yield from ("", "## The paper's abstract", "", _filled(ABSTRACT), "", *markdown(rows))


def _defaults(kept: Kept) -> Iterator[str]:
    yield from ("", "## Defaults", "", _filled(DEFAULTS), "", *markdown(default_rows(kept)))


def default_rows(kept: Kept) -> list[list[str]]:
    """The defaults of `pretrain` that have been studied, each beside its other values."""
    rows = [["setting", "with", "default", "study", "lowest other", "minus the default (95 %)", "shown to be lower"]]
    for setting, settings, study in STUDIED:
        given = " ".join(f"`{name}={value}`" for name, value in settings.items())
        value = getattr(make_config(settings), setting)
        gaps = others(setting, kept) if study == "which-guidance" else {}
        lowest = min(gaps, key=lambda name: gaps[name].mean) if gaps else None
        lower = "; ".join(name for name, gap in gaps.items() if gap.below_zero) or "none"
        seen = [lowest, gaps[lowest].text(), lower] if lowest else ["–"] * 3
        rows.append([f"`{setting}`", given or "–", f"`{value}`", f"[{study}](#{study})", *seen])
    return rows


def write_page(kept: Kept, page: Path) -> list[Path]:
    """Write the page and, beside it, its figures; the files written."""
    from attention_guidance.commands.report.figures.svg import save_svg

    page.write_text(page_text(kept), encoding="utf-8")
    written = [page]
    for study in every_study():
        if kept.of(study.runs(kept, kept.seeds)):
            for name, figure in study.section(kept).figures.items():
                written.append(page.with_name(f"evidence-{study.name}-{name}.svg"))
                save_svg(figure, written[-1])
    return written
