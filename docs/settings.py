"""Write docs/settings.md, the settings of the commands, from their declarations: python docs/settings.py [--check]."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.flags import default_text, flags_of, read_as
from attention_guidance.commands.finetuning.settings import FinetuneSettings, FitSettings
from attention_guidance.commands.pretraining.settings.run_config import RunConfig
from attention_guidance.commands.setting import settings_of

PAGE = Path(__file__).with_name("settings.md")
_PRETRAINING = """\
# Settings

Every setting of `pretrain` and `compare`: its name in `run.yaml` and Python (`RunConfig`), and its flag. This page is
written by `python docs/settings.py`; [pretraining.md](pretraining.md) explains what the settings are for.
"""
_FINETUNING = """
## Fine-tuning

Settings of `finetune` and `downstream`: of all fits (`FinetuneSettings`), and of each (`FitSettings`).
[finetuning.md](finetuning.md) explains them.
"""
_HEAD = "| setting | flag | default | what it is |\n| --- | --- | --- | --- |\n"


def main() -> None:
    """Write the page, or fail with --check where it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} is out of date: run python docs/settings.py")


def page() -> str:
    """The page."""
    return _PRETRAINING + tables(RunConfig) + _FINETUNING + tables(FinetuneSettings) + tables(FitSettings)


def tables(record: Any) -> str:
    """A table for each group of the settings of a record."""
    groups: dict[str, list[str]] = {}
    for name, declared in settings_of(record).items():
        flag = " ".join(dict.fromkeys([flags_of(record)[name], read_as(record, name).get("metavar", "")])).strip()
        rules = [rule.says for rule in declared.must if rule.says.startswith("must")]
        about = "; ".join([declared.help, *rules, *(f"for {need.says}" for need in declared.needs)])
        cells = [f"`{name}`", f"`{flag}`", default_text(declared) or "–", about]
        heading = f"\n## {declared.group.capitalize()}\n\n" if declared.group else "\n"
        table = groups.setdefault(declared.group, [f"{heading}{_HEAD}"])
        table.append(" | ".join(cell.replace("|", "\\|") for cell in cells))
    return "".join("".join([table[0], *(f"| {row} |\n" for row in table[1:])]) for table in groups.values())


if __name__ == "__main__":
    main()
