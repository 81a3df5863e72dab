"""What is fuzzed: for each kind of file, valid examples, the mutation, and the function that reads it."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from attention_guidance.assignment import assign_heads
from attention_guidance.commands.annotations.conll2012 import read_conll2012
from attention_guidance.commands.annotations.gap import read_gap
from attention_guidance.commands.annotations.minimal_pairs import read_minimal_pairs
from attention_guidance.commands.annotations.reflexives import read_reflexives
from attention_guidance.commands.annotations.tagged import read_tagged
from attention_guidance.commands.annotations.treebanks import read_trees
from attention_guidance.commands.cli.arguments import Assign, Parser
from attention_guidance.commands.finetuning import candidates, downstream
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.tasks import KINDS, get_task
from attention_guidance.commands.finetuning.fits.kept import facts_of, finished_request
from attention_guidance.commands.finetuning.prediction.inputs import read_items
from attention_guidance.commands.finetuning.prediction.saved import load_task
from attention_guidance.commands.finetuning.scoring.predictions import read_predictions
from attention_guidance.commands.pretraining.loop.clock import Clock
from attention_guidance.commands.pretraining.loop.snapshots import AttentionSnapshots
from attention_guidance.commands.pretraining.loop.trainer import StepTimer
from attention_guidance.commands.pretraining.preparation.text import _packed
from attention_guidance.commands.pretraining.saving.checkpoints import damage
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.architectures import stated_sizes
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config
from attention_guidance.commands.recipe import low_resource
from attention_guidance.commands.recipe.plan import RecipeSettings
from attention_guidance.commands.report.figures.svg import to_svg
from attention_guidance.commands.studies import models, report
from attention_guidance.commands.text.corpora import read_documents
from attention_guidance.commands.text.lines import Malformed
from attention_guidance.commands.text.tables import find_columns, read_table
from attention_guidance.errors import ConfigError
from attention_guidance.patterns import get_pattern

from .fuzz_files import FILES, RESULTS, SAVED, WORDS, mutated_parquet, parquet
from .fuzz_mutations import Chance, mutated_bytes, mutated_gzip, mutated_json_bytes, mutated_text

# A figure takes a second, so few cases draw.
_DRAWN = 1 / 400


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        kind: `text` (also tables, settings and words of the command line), `json` or `binary`.
        seeds: valid contents.
        read: reads the file at a path, with options drawn from a random generator.
        mutate: makes new contents of valid or kept ones.
        named: whether errors must name the file; False where they name the setting or the argument.
        weight: how many cases a round has; fewer for what is slow to read.
    """

    kind: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path, Chance], object]
    mutate: Callable[[bytes, Chance], bytes] = mutated_text
    named: bool = True
    weight: int = 4


def _read_documents(path: Path, chance: Chance) -> int:
    options = {
        "split": chance.choice(("auto", "line", "blank", "file")),
        "errors": chance.choice(("strict", "replace")),
    }
    field = {"text_field": "label"} if chance.random() < 0.1 else {}
    return sum(len(document.text) for document in read_documents([path], **options, **field))


def _read_table(path: Path, chance: Chance) -> int:
    columns = chance.choice((None, ["text", "label"], ["1", "2"]))
    rows = read_table(path, columns=columns, malformed=Malformed(path, skip=chance.random() < 0.5))
    return len(find_columns(rows, [("text", "sentence"), ("label",)], columns))


def _read_task(path: Path, chance: Chance) -> object:
    errors = chance.choice(("strict", "skip"))
    return read_examples(get_task(path.name.split("-")[0]), {"train": path}, errors=errors, repair=errors == "skip")


def _read_tagged(path: Path, chance: Chance) -> object:
    columns = chance.choice((None, None, (1, 2), (2, 4)))
    malformed = Malformed(path, skip=chance.random() < 0.5)
    return read_tagged(path, columns=columns, repair=chance.random() < 0.5, malformed=malformed)


def _read_items(path: Path, chance: Chance) -> int:
    task = KINDS[chance.choice(("classify", "pair", "ner"))]
    words = task.kind == "tokens" and (path.suffix == ".conll" or chance.random() < 0.2)
    columns = chance.choice((None, ["1", "2"] if task.name == "pair" else ["1"] if words else ["text"]))
    return len(list(read_items(task, str(path), words=words, columns=columns)))


def _read_predictions(path: Path, chance: Chance) -> object:
    kind = "tokens" if path.suffix == ".txt" else chance.choice(("classify", "regress", "multilabel"))
    return read_predictions(path.parent.parent, "test", kind, [1])


def _text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _read_heads(path: Path, chance: Chance) -> object:
    return assign_heads(_text_of(path), 4, 4, functools.partial(get_pattern, token_classes={"comma": [5]}))


class _Parser(Parser):
    def error(self, message: str) -> Any:
        raise ConfigError(message)


def _words_parser() -> Parser:
    parser = _Parser()
    parser.add_argument("--set", dest="arguments", action=Assign, metavar="NAME=VALUE")
    parser.add_argument("--token-class", dest="token_classes", action=Assign, metavar="NAME=TOKENS")
    return parser


_PARSER = _words_parser()


def _read_assignments(path: Path, chance: Chance) -> object:
    """Each line is a value of --set, or, after a `#`, of --token-class."""
    words = [
        f"--token-class={line[1:]}" if line.startswith("#") else f"--set={line}" for line in _text_of(path).split("\n")
    ]
    given = vars(_PARSER.parse_args(words))
    return make_config({name: value for name, value in given.items() if value is not None})


def _read_flags(path: Path, chance: Chance) -> object:
    """Each line is a setting and its value, by flag: a number, or else text."""
    pairs = (line.partition("=") for line in _text_of(path).split("\n"))
    fields = {field.name for field in dataclasses.fields(RunConfig)} - {"corpus", "validation"}
    return make_config({name: _number_or_text(value) for name, _, value in pairs if name in fields})


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


# The key of `report.json` for each kind of result that is shown with figures.
_LISTS = {"probe": "probes", "minimal_pairs": "pairs", "skill": "skills"}


def _read_included(path: Path, chance: Chance) -> bool:
    """Read a result, draw its figures and make its part of the page, as `report` does."""
    from attention_guidance.commands.report.run_page import figures

    drawn = chance.random() < _DRAWN
    for item in report._included([path if chance.random() < 0.5 else path.parent]):
        content: dict[str, list[Any]] = {"runs": [], **{key: [] for key in _LISTS.values()}}
        if item["kind"] == "finetune":
            json.dumps(list(report._scores(item)))
            continue
        content[_LISTS[item["kind"]]].append(item)
        list(report._tables(content))
        if drawn:
            for figure in figures(content).values():
                to_svg(figure)
                figure.savefig(io.BytesIO(), dpi=160)
            _rendered(content)
    return drawn


def _rendered(content: dict[str, list[Any]]) -> None:
    from attention_guidance.commands.report.page import render
    from attention_guidance.commands.report.run_page import studied

    nothing: Any = {"report": {"tiles": [], "has_slider": False, "has_attention": False, "command": "x"}}
    lists = dict.fromkeys(
        ("runs", "charts", "settings", "patterns", "developments", "planes", "downstream", "made"), ()
    )
    sample = {"corpus": "", "sample": {"sequences": 1, "block_size": 1}}
    grids = [{"threshold": 0.5, "heads": [], "rows": [], "run": 0, "name": "", "step": "", "shares": {}, **sample}]
    page = nothing | lists | {"grids": grids, **studied(content), "data": {}}
    render("run.html", **(page | {"runs": [{"name": "run"}]}))


def _read_log(path: Path, chance: Chance) -> object:
    subject = models.Subject("x", str(path.parent), 10, path.parent)
    return subject.loss(), models.trainer_log(path.parent)


def _read_results(path: Path, chance: Chance) -> object:
    (path.parent / "run.yaml").touch()
    finished = RunFolder(path.parent).finished
    return report._history(str(path.parent)), models.results_of(path.parent).get("final_loss"), finished


def _read_data(path: Path, chance: Chance) -> object:
    return RunFolder(path.parent).fingerprint


def _read_blocks(path: Path, chance: Chance) -> object:
    """Packed blocks: what is damaged is packed again, without an error."""
    folder = path.parent
    for name, content in SAVED["blocks"].items():
        if name != path.name:
            (folder / name).write_bytes(content)
    return _packed(folder, 4, lambda note: None)


def _read_saved_task(path: Path, chance: Chance) -> object:
    for name, content in SAVED["task"].items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    return load_task(path.parent)


def _read_downstream(path: Path, chance: Chance) -> object:
    side = candidates.Candidate("a", {"a": "a"})
    return downstream._what_would_be_lost(path, KINDS["classify"], [side], 0)


def _read_recipe(path: Path, chance: Chance) -> object:
    return low_resource._lost_results(path.parent, RecipeSettings())


def _clock(path: Path) -> float:
    clock = Clock(60)
    clock.load(path.parent)
    return clock.elapsed


def _text(seeds: Iterable[bytes], read: Callable[[Path, Chance], object], **more: Any) -> Target:
    return Target("text", tuple(seeds), read, **more)


def _json(name: str, read: Callable[[Path, Chance], object], **more: Any) -> Target:
    content = (RESULTS | WORDS)[name]
    seeds = content if isinstance(content, tuple) else (json.dumps(content).encode(),)
    return Target("json", seeds, read, mutated_json_bytes, **more)


def _numpy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


_SETTINGS = yaml.safe_dump(dataclasses.asdict(RunConfig(corpus=["text.txt"], heads="next:1"))).encode()
_SOME = b"preset: tiny\nheads: next:1\narguments: {optim: adafactor}\ntoken_classes:\n  comma: [',', ';']\nseed: 3\n"
TARGETS: dict[str, Target] = {
    **{f"text{suffix}": _text([FILES[suffix]], _read_documents) for suffix in (".txt", ".csv", ".tsv", ".jsonl")},
    **{
        f"text{suffix}.gz": _text([gzip.compress(FILES[suffix])], _read_documents, mutate=mutated_gzip, weight=2)
        for suffix in (".txt", ".csv", ".jsonl")
    },
    **{
        f"table{suffix}": _text([content if suffix != ".txt" else FILES[".tsv"]], _read_table)
        for suffix, content in FILES.items()
    },
    **{name: _text([WORDS[name]], _read_task, weight=1) for name in WORDS if name.split("-")[0] in KINDS},
    "tagged.conll": _text(WORDS["tagged"], _read_tagged),
    "tagged.conllu": _text([WORDS["trees"]], _read_tagged),
    "trees.conllu": _text([WORDS["trees"]], lambda path, chance: list(read_trees(path))),
    "coref.v4_gold_conll": _text([WORDS["coref"]], lambda path, chance: list(read_conll2012(path))),
    "gap.tsv": _text([WORDS["gap"]], lambda path, chance: list(read_gap(path))),
    "reflexives.txt": _text([WORDS["reflexives"]], lambda path, chance: read_reflexives(path)),
    "pairs.jsonl": _text([WORDS["pairs"]], lambda path, chance: read_minimal_pairs(path)),
    **{f"items{suffix}": _text([FILES[suffix]], _read_items) for suffix in (".txt", ".tsv", ".jsonl")},
    "items.conll": _text(WORDS["tagged"], _read_items),
    "predictions/test-seed-1.txt": _text([WORDS["predicted.txt"]], _read_predictions),
    "predictions/test-seed-1.tsv": _text([WORDS["predicted.tsv"]], _read_predictions),
    "config/run.yaml": _text([_SETTINGS, _SOME], lambda path, chance: make_config({}, path), named=False, weight=1),
    "heads": _text(WORDS["heads"], _read_heads, named=False),
    "set": _text(WORDS["set"], _read_assignments, named=False, weight=2),
    "flags": _text(WORDS["flags"], _read_flags, named=False, weight=2),
    **{f"{kind}.json": _json(f"{kind}.json", _read_included) for kind in (*_LISTS, "finetune")},
    "trainer_state.json": _json("trainer_state.json", _read_log),
    "results.json": _json("results.json", _read_results),
    "data.json": _json("data.json", _read_data),
    "checkpoint/clock.json": _json("clock.json", lambda path, chance: _clock(path)),
    "checkpoint/seal.json": _json("seal.json", lambda path, chance: damage(path.parent)),
    "attention/step-0.json": _json("step-0.json", lambda path, chance: AttentionSnapshots.load(path.parent)),
    "fit/fit.json": _json("fit.json", lambda path, chance: facts_of(path.parent)),
    "scores/finetune.json": _json("finetune.json", lambda path, chance: finished_request(path.parent)),
    "compared/compare.json": _json("compare.json", lambda path, chance: candidates._seeds_of(path.parent)),
    "compared/downstream.json": _json("downstream.json", _read_downstream),
    "recipe/recipe.json": _json("recipe.json", _read_recipe),
    "blocks/blocks.json": _json("blocks.json", _read_blocks),
    "model/task.json": _json("task.json", _read_saved_task, weight=2),
    "model/baseline.json": _json("baseline.json", _read_saved_task, weight=2),
    "arch/config.json": _json("config.json", lambda path, chance: stated_sizes(str(path), None), weight=2),
    "text.parquet": Target("binary", (parquet(),), _read_documents, mutated_parquet),
    "table.parquet": Target("binary", (parquet(),), _read_table, mutated_parquet),
    "classify-table.parquet": Target("binary", (parquet(),), _read_task, mutated_parquet),
    "checkpoint/step_seconds.npy": Target(
        "binary", (_numpy(np.ones(4, np.float32)),), lambda path, chance: StepTimer().load(path.parent), mutated_bytes
    ),
    "blocks/lengths.npy": Target("binary", (SAVED["blocks"]["lengths.npy"],), _read_blocks, mutated_bytes),
    "model/baseline.safetensors": Target(
        "binary", (SAVED["task"]["baseline.safetensors"],), _read_saved_task, mutated_bytes
    ),
}
