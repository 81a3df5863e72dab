"""`attention-guidance report`: one HTML page about runs and their heads."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attention_guidance.analysis.given import check_unicode
from attention_guidance.analysis.maps import attention_maps
from attention_guidance.analysis.tokens import token_texts
from attention_guidance.commands import results
from attention_guidance.commands.objectives import OTHER_THAN_TEXT
from attention_guidance.commands.output_lock import until_done
from attention_guidance.commands.pretraining.saving.checkpoints import checkpoints
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.settings.config import CONFIG_FILE, RunConfig, make_config
from attention_guidance.commands.printing import Console
from attention_guidance.commands.reading.json_files import checked, read_json
from attention_guidance.commands.report.run_page import figures, write_run_page
from attention_guidance.commands.report.schemas import FinetuneResult, LogEntry, PairsResult, ProbeResult, SkillResult
from attention_guidance.commands.studies.census import CensusSettings, census_rows, measured_census
from attention_guidance.commands.studies.models import (
    USUAL_LENGTH,
    Subject,
    longest_sequence,
    names_of,
    results_of,
    subjects,
    trainer_log,
)
from attention_guidance.commands.studies.output import Output
from attention_guidance.commands.studies.progress import Steps
from attention_guidance.commands.studies.sample import Text
from attention_guidance.errors import ConfigError, CorpusError, RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPORT_FILE = "report.json"
PAGE_FILE = "report.html"

# Default sentences: the number of documents, and the number of characters of each.
_SENTENCES = 3
_BEGINNING = 160
# Settings in the order of the page; settings that a run does not have are left out.
_OF_MODEL = ("layers", "hidden", "attention_heads", "feed_forward", "block_size", "batch_size", "max_steps")
_OF_GUIDANCE = ("heads", "weight", "relative_weight", "loss", "schedule", "hold", "end")
_OF_TRAINING = ("learning_rate", "masking_rate", *_OF_GUIDANCE, "seed")
_SETTINGS = (*_OF_MODEL, *_OF_TRAINING)

# Results that a page can show.
_INCLUDED = {"probe": ProbeResult, "minimal_pairs": PairsResult, "skill": SkillResult, "finetune": FinetuneResult}


@until_done()
def report(
    runs: Sequence[str],
    output: Path,
    *,
    text: Text | None = None,
    include: Sequence[Path] = (),
    sentences: Sequence[str] = (),
    sequences: int = 64,
    seed: int = 1,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Collect the results of some runs or models and write a page about them.

    Args:
        runs: folders of runs or models, or names on the Hugging Face hub.
        output: folder for `report.html`, `report.json`, figures and their data.
        text: text for the census (default: the first run's validation text or corpus, or the embedded text).
        include: results of other commands (probe, skill, finetune), as files or folders.
        sentences: sentences to show attention maps of (default: the beginnings of the text).
        sequences: number of blocks of text for the census.
        seed: seed of the sample.
        overwrite: whether to replace an existing report in the folder.
        quiet: whether to print nothing.

    Returns:
        The content of `report.json`.

    Raises:
        GuidanceError: bad input.
    """
    for sentence in sentences:
        check_unicode("sentences", sentence)
        if not sentence.strip():
            raise ConfigError(f"sentences={sentence!r}: give a sentence with at least one word")
    folder = Output.of_study(output, REPORT_FILE, overwrite)
    console = Console(quiet=quiet)
    included = list(_included(include))
    census_text = text or _own_text(runs[0])
    shown = list(sentences) or _beginnings(census_text)
    names = names_of(runs)
    with Steps(console, quiet) as steps:
        records = [
            _run(run, name, census_text, shown, sequences, seed, steps) for run, name in zip(runs, names, strict=True)
        ]
    content: dict[str, Any] = {
        **results.header("report"),
        "runs": records,
        "probes": [item for item in included if item["kind"] == "probe"],
        "pairs": [item for item in included if item["kind"] == "minimal_pairs"],
        "skills": [item for item in included if item["kind"] == "skill"],
        "downstream": [row for item in included if item["kind"] == "finetune" for row in _scores(item)],
        "has_attention": any(record["attention"] for record in records),
        "has_slider": any(len(record["census"]["snapshots"]) > 1 for record in records),
        "own_sentences": bool(sentences),
        "tiles": _tiles(records),
    }
    for name, figure in figures(content).items():
        folder.figure(f"figures/{name}", figure)
    for name, rows in _tables(content):
        folder.csv(f"data/{name}.csv", rows)
    write_run_page(content, output / PAGE_FILE)
    folder.json(REPORT_FILE, content)
    for line in _truncations(records):
        console.print(line)
    console.print(f"open {output / PAGE_FILE}")
    return content


def _config(run: str) -> RunConfig | None:
    path = Path(run) / CONFIG_FILE
    return make_config({}, path) if path.is_file() else None


def _own_text(run: str) -> Text:
    """The validation text or corpus of a run, if it still exists; the embedded text for a model."""
    config = _config(run)
    if config is not None and config.objective in OTHER_THAN_TEXT:
        raise ConfigError(
            f"the run in {run} was trained on {OTHER_THAN_TEXT[config.objective]}, but report supports only text"
        )
    if config is not None and config.dataset is not None:
        raise ConfigError(f"the run in {run} was trained on the data set {config.dataset}; give a text with `text`")
    if config is None or not config.corpus:
        return Text()
    files = config.validation or config.corpus
    missing = [file for file in files if not Path(file).exists()]
    if missing:
        raise CorpusError(f"the text of the run in {run} is no longer at {missing[0]}; give a text with `text`")
    return Text(files, config.text_field, config.documents, config.errors)


def _beginnings(text: Text) -> list[str]:
    """The beginnings of the first documents, cut at the end of a word if they have spaces."""
    texts = (document.text for document in itertools.islice(text.read(), _SENTENCES))
    whole_words = re.compile(rf".{{1,{_BEGINNING}}}(?!\S)", re.DOTALL)
    return [found[0].rstrip() if (found := whole_words.match(text)) else text[:_BEGINNING] for text in texts]


def _run(
    run: str, name: str, text: Text, sentences: Sequence[str], sequences: int, seed: int, steps: Steps
) -> dict[str, Any]:
    """The page's data about one run."""
    saved = bool(checkpoints(RunFolder(Path(run)).checkpoints))
    settings = CensusSettings(with_checkpoints=saved, sequences=sequences, seed=seed)
    census = measured_census(run, text, settings, steps)
    subject = subjects(run)[0]
    config, history = _config(run), _history(run)
    return {
        "name": name,
        "settings": {} if config is None else {key: getattr(config, key) for key in _SETTINGS},
        "final_loss": results_of(Path(run)).get("final_loss") if config else None,
        "validation": [[entry["step"], entry["eval_loss"]] for entry in history if "eval_loss" in entry],
        "guidance": [[entry["step"], entry["guidance"]] for entry in history if "guidance" in entry],
        "census": census,
        "attention": _attention(subject, sentences),
    }


def _history(run: str) -> list[LogEntry]:
    """The Trainer's log up to the newest checkpoint, or the validation curve of a finished run without checkpoints."""
    for checkpoint in reversed(checkpoints(RunFolder(Path(run)).checkpoints)):
        if log := trainer_log(checkpoint):
            return log
    curve = results_of(Path(run)).get("curve") or [] if (Path(run) / CONFIG_FILE).is_file() else []
    return [{"step": point["step"], "eval_loss": point["loss"]} for point in curve]


def _attention(subject: Subject, sentences: Sequence[str]) -> list[dict[str, Any]]:
    """The maps of all heads on some sentences, layer by layer: one byte per weight (255 is 1), in base64."""
    model, tokenizer = subject.load(), subject.tokenizer()
    # With maps of more tokens, the page would be too large for browsers.
    longest = min(USUAL_LENGTH, longest_sequence(model, tokenizer))
    return [_maps(model, tokenizer, sentence, longest) for sentence in sentences]


def _maps(model: Any, tokenizer: PreTrainedTokenizerBase, sentence: str, longest: int) -> dict[str, Any]:
    whole = tokenizer(sentence, split_special_tokens=True, verbose=False)["input_ids"]
    ids = tokenizer(sentence, truncation=True, max_length=longest, split_special_tokens=True)["input_ids"]
    maps_LHTT = attention_maps(model, torch.tensor(ids))
    coded = (255 * maps_LHTT).round().clamp(0, 255).to(torch.uint8).numpy().tobytes()
    return {
        "text": sentence,
        "tokens": token_texts(tokenizer, ids),
        "left_out": len(whole) - len(ids),
        "maps": base64.b64encode(coded).decode(),
    }


def _truncations(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a message for each sentence that is longer than the model's maximum length."""
    for record in records:
        for sentence in record["attention"]:
            if sentence["left_out"]:
                taken = len(sentence["tokens"])
                yield (
                    f"{record['name']}: maps of the first {taken} tokens of {sentence['text'][:40]!r}; the last "
                    f"{sentence['left_out']} are left out"
                )


def _included(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the results found in files and folders."""
    for path in paths:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        found = False
        for file in files:
            try:
                content = read_json(file, Any)
            except RunError:
                if path.is_dir():
                    continue  # a folder may hold other files too
                raise
            kind = content.get("kind") if isinstance(content, dict) else None
            if isinstance(kind, str) and kind in _INCLUDED:
                found = True
                yield checked(content, _INCLUDED[kind], file)
        if not found:
            raise RunError(f"{path}: holds no result of probe, skill or finetune")


def _scores(finetuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for metric, values in finetuned["scores"].items():
        of_run = {"model": finetuned["model"], "task": finetuned["task"]}
        yield {**of_run, "metric": metric, "mean": values["mean"], "seeds": values["seeds"]}


def _tables(content: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Yield the data of the figures as tables, with their names."""
    for run in content["runs"]:
        yield f"{run['name']}-census", list(census_rows(run["census"]))
        heads = run["census"]["snapshots"][-1]["heads"]
        yield (
            f"{run['name']}-similarity",
            [
                {"layer": head["layer"], "head": head["head"], "x": x, "y": y}
                for head, (x, y) in zip(heads, run["census"]["similarity"]["positions"], strict=True)
            ],
        )
        curves = [
            {"curve": key, "step": step, "value": value}
            for key in ("validation", "guidance")
            for step, value in run[key]
        ]
        if curves:
            yield f"{run['name']}-curves", curves
    for number, probe in enumerate(content["probes"], 1):
        yield f"probe-{number}-{probe['task']}", [_label_row(label) for label in probe["labels"]]
    for number, pairs in enumerate(content["pairs"], 1):
        yield f"pairs-{number}", list(_pairs_rows(pairs))
    for number, skill in enumerate(content["skills"], 1):
        yield f"skill-{number}-{skill['task']}", skill["points"]


def _pairs_rows(pairs: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """The accuracies at each checkpoint: of all paradigms, and by field, phenomenon and paradigm."""
    for taken in pairs["snapshots"]:
        groups = [("all", {"name": "", **taken["accuracy"]})]
        for kind, key in (("field", "fields"), ("phenomenon", "phenomena"), ("paradigm", "paradigms")):
            groups += [(kind, row) for row in taken[key]]
        for kind, row in groups:
            place: dict[str, object] = {"step": "" if taken["step"] is None else taken["step"], "kind": kind}
            accuracy = {"accuracy": row["value"], "accuracy_low": row["low"], "accuracy_high": row["high"]}
            yield place | {"name": row["name"], "pairs": row["pairs"]} | accuracy


def _label_row(label: Mapping[str, Any]) -> dict[str, object]:
    best, baseline = label["best"], label["baseline"]
    head = {key: best[key] for key in ("layer", "head", "direction")}
    accuracy = {"accuracy": best["value"], "accuracy_low": best["low"], "accuracy_high": best["high"]}
    of_rule = {"baseline": baseline["name"], "baseline_accuracy": baseline["value"]}
    ends = {"baseline_low": baseline["low"], "baseline_high": baseline["high"]}
    return {"label": label["label"], "questions": label["questions"], **head, **accuracy, **of_rule, **ends}


def _tiles(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Headline figures of each run: validation loss, and the number of heads that follow a pattern."""
    tiles = []
    for record in records:
        last = record["census"]["snapshots"][-1]
        n_heads, following = len(last["heads"]), sum(head["follows"] is not None for head in last["heads"])
        guided = [head for head in last["heads"] if head["guided_toward"]]
        kept = sum(head["follows"] == head["guided_toward"] for head in guided)
        text = f"heads of {record['name']} follow a pattern"
        if guided:
            text += f"; of {len(guided)} guided ones {kept} follow theirs"
        if record["final_loss"] is not None:
            loss = f"nats a token, {record['name']}"
            tiles.append({"title": "Validation loss", "value": f"{record['final_loss']:.2f}", "text": loss})
        tiles.append({"title": "Heads on a pattern", "value": f"{following}/{n_heads}", "text": text + "."})
    return tiles
