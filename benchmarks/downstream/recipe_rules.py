"""Are the settings that the recipe chooses good ones? One is changed at a time, and entities are looked for.

    python -m benchmarks.downstream.recipe_rules                            Swahili, every setting (hours on 2 cores)
    python -m benchmarks.downstream.recipe_rules --only masking weight
    python -m benchmarks.downstream.recipe_rules --preset tiny --megabytes 0.25 --sentences 1000    small text and task
    python -m benchmarks.downstream.recipe_rules --show                     the table of what is kept

Every model is guided. The default (--preset, the vocabulary that suits the text, 15 % masked, weight 0.1) is
pre-trained for 1,500 steps, and so is what it is compared with but where steps are what is changed; each is fine-tuned
alike over five seeds. Reads ../shared/data, which is not part of the project. Goes on where it was stopped, as long as
--runs is there. What it finds is appended to results/recipe_rules.jsonl, a line a setting.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import BENCHMARKS, DATA
from ..turns import keep, newest
from .tables import gap, score
from .tasks import finetune_settings, finished_run

if TYPE_CHECKING:
    from attention_guidance.commands.finetuning.settings import FinetuneSettings

RESULTS = BENCHMARKS / "results" / "recipe_rules.jsonl"
_STEPS = 1500
# The other size of model, with as many tokens in all, as a step of `tiny` has a quarter of those of `mini`; the larger
# one with as many steps too.
_OTHER_MODEL: dict[str, dict[str, dict[str, Any]]] = {
    "mini": {"tiny": {"preset": "tiny", "times": 4}},
    "tiny": {"mini": {"preset": "mini", "times": 1 / 4}, "mini, longer": {"preset": "mini"}},
}
# By setting: values to try beside the default, by what to call them; `times` are so many times the steps, `tokens` so
# many times the vocabulary.
_TRIED: dict[str, dict[str, dict[str, Any]]] = {
    "vocabulary": {"half": {"tokens": 1 / 2}, "twice": {"tokens": 2}},
    "steps": {"a third": {"times": 1 / 3}, "twice": {"times": 2}},
    "masking": {"30 %": {"masking_rate": 0.3}, "40 %": {"masking_rate": 0.4}},
    "weight": {"0.03": {"weight": 0.03}, "0.3": {"weight": 0.3}},
}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.downstream.recipe_rules",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--text", default="swahili", help="a folder of the data with train.txt, valid.txt and ner")
    parser.add_argument("--megabytes", type=float, help="pre-train on the first so many alone (all)")
    parser.add_argument("--sentences", type=int, help="fine-tune on the first so many labelled ones alone (all)")
    parser.add_argument("--only", nargs="+", choices=["model", *_TRIED], default=["model", *_TRIED])
    parser.add_argument(
        "--runs", type=Path, default=BENCHMARKS.parent / "runs" / "recipe_rules", help="where runs are kept"
    )
    parser.add_argument("--preset", default="mini", choices=[*_OTHER_MODEL], help="the default's")
    parser.add_argument("--steps", type=int, default=_STEPS, help="the default's (1,500)")
    parser.add_argument("--seeds", type=int, default=5, help="of fine-tuning (5)")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if not arguments.data.is_dir():
        print(f"error: the data in {arguments.data} are not there", file=sys.stderr)
        return 2
    if failed := keep(arguments.results, study(arguments), json.dumps):
        return failed
    print(show(arguments.results))
    return 0


def study(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each setting's comparison, as soon as it is known."""
    from attention_guidance.commands.finetuning.downstream import downstream
    from attention_guidance.commands.tokenization.byte_level import suggest_vocab_size

    corpus = arguments.data / arguments.text / "train.txt"
    megabytes = arguments.megabytes or corpus.stat().st_size / 1e6
    if arguments.megabytes is not None:
        corpus = beginning(corpus, round(megabytes * 1e6), arguments.runs)

    def model(name: str, changed: Mapping[str, Any]) -> str:
        flags = {"corpus": [str(corpus)], **changed}
        flags["max_steps"] = round(arguments.steps * flags.pop("times", 1))
        if "tokens" in flags:
            flags["vocab_size"] = round(flags.pop("tokens") * suggest_vocab_size(corpus.stat().st_size))
        return str(finished_run(arguments.text, f"{arguments.text}-{megabytes:.2f}-{name}", flags, arguments))

    settings = _task(arguments)
    tried = {"model": _OTHER_MODEL[arguments.preset]} | _TRIED
    for setting in arguments.only:
        models = {"default": model("default", {})}
        for value, changed in tried[setting].items():
            models[value] = model(f"{setting}-{value.replace(' %', '')}", changed)
        # One folder for all settings, so that the default is fine-tuned once: each comparison replaces the one before.
        output = arguments.runs / f"{arguments.text}-{megabytes:.2f}-{arguments.sentences or 'all'}-ner"
        print(f"fine-tuning for {setting}", file=sys.stderr, flush=True)
        found = downstream([*models.values()], settings, output, resume=True, overwrite=True, quiet=True)
        values = dict(zip((record["model"] for record in found["models"]), models, strict=True))
        kept = ("schema_version", "kind", "date", "versions", "device", "task", "metric", "split")
        yield {name: found[name] for name in kept} | {
            "text": arguments.text,
            "megabytes": round(megabytes, 2),
            "sentences": arguments.sentences,
            "setting": setting,
            "tried": {value: _facts(Path(run)) for value, run in models.items()},
            "models": {values[record.pop("model")]: record for record in found["models"]},
            "differences": {values[gap.pop("model")]: gap for gap in found["differences"]},
        }


def _task(arguments: argparse.Namespace) -> FinetuneSettings:
    """What is fine-tuned on: entities, all sentences of them or the first."""
    settings = finetune_settings(arguments.text, "ner", arguments)
    if arguments.sentences is None:
        return settings
    sentences = settings.files["train"].read_text(encoding="utf-8").strip().split("\n\n")[: arguments.sentences]
    file = arguments.runs / f"{arguments.text}-ner-{arguments.sentences}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return dataclasses.replace(settings, files={**settings.files, "train": file})


def beginning(text: Path, n_bytes: int, runs: Path) -> Path:
    """The first whole lines of a text, about so many bytes of it."""
    file = runs / f"{text.parent.name}-{n_bytes}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.read_bytes()[:n_bytes].rpartition(b"\n")[0] + b"\n")
    return file


def _facts(run: Path) -> dict[str, Any]:
    result = json.loads((run / "results.json").read_text(encoding="utf-8"))
    names = ("preset", "max_steps", "learning_rate", "masking_rate", "heads", "weight", "seed")
    facts = {name: result["config"][name] for name in names}
    return facts | {name: result[name] for name in ("tokens_per_step", "final_loss", "train_seconds")}


def show(path: Path) -> str:
    """The newest result of each setting as Markdown."""
    records = newest(path, "text", "megabytes", "sentences", "setting")
    if not records:
        return "nothing is kept yet"
    head = ("text", "setting", "tried", "entity F1", "minus the default's (95 %)")
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for record in records:
        text, megabytes, sentences, setting = (record[n] for n in ("text", "megabytes", "sentences", "setting"))
        labelled = "" if sentences is None else f", {sentences:,} labelled sentences"
        what = f"{text.capitalize()}, {megabytes:g} MB{labelled}", setting
        for value, model in record["models"].items():
            rows.append((*what, value, score(model), gap(record["differences"].get(value))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
