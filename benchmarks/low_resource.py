"""Is pre-training worth it where there is little text? Entities of three languages: CRF, encoders, and both combined.

    python benchmarks/low_resource.py hausa                        the recipe's settings, two seeds (hours on 2 cores)
    python benchmarks/low_resource.py swahili hausa yoruba --seeds 1 2
    python benchmarks/low_resource.py hausa --steps 1500 --finetune-seeds 2 --learning-rates 1e-3     a first look
    python benchmarks/low_resource.py --show                       the table of what is kept

The text is cleaned and the settings are chosen as `attention-guidance recipe low-resource` does; sentences of dev and
test are left out of the text. Guided and unguided encoders are pre-trained alike, fine-tuned over seeds, and combined
with the CRF. Reads ../shared/data, which is not part of the project. Continues where it was stopped, as long as --runs
exists. Each result is appended to results/low_resource.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from downstream import DATA, HERE
from transformers.utils import logging
from turns import append

from attention_guidance.errors import GuidanceError

RESULTS = HERE / "results" / "low_resource.jsonl"
# Entity F1 of MasakhaNER 2.0's public predictions on these test files, means of five runs (Adelani et al. 2022).
PUBLISHED = {
    "swahili": {"XLM-R base": 92.2, "AfroXLMR base": 92.3},
    "hausa": {"XLM-R base": 83.8, "AfroXLMR base": 86.6},
    "yoruba": {"XLM-R base": 85.8, "AfroXLMR base": 88.3},
}
_ARMS = ("unguided", "guided")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("languages", nargs="*", help=f"of {', '.join(PUBLISHED)}, or other folders of the data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="of pre-training (1 2)")
    parser.add_argument("--steps", type=int, help="of pre-training (the recipe's choice)")
    parser.add_argument("--finetune-seeds", type=int, default=5, help="fine-tunings of each model (5)")
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[], help="to choose from (finetune's)")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "low_resource", help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--show", action="store_true", help="print what is kept")
    arguments = parser.parse_args()
    if arguments.show:
        print(show(arguments.results))
        return 0
    if not arguments.languages:
        parser.error("name a language, or --show")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        for language in arguments.languages:
            if not (arguments.data / language / "ner").is_dir():
                raise GuidanceError(f"{arguments.data / language}: no folder ner; the data are not there")
            for seed in arguments.seeds:
                append(arguments.results, [study(language, seed, arguments)])
    except GuidanceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(show(arguments.results))
    return 0


def study(language: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both encoders of one seed of pre-training, fine-tuned and compared."""
    from attention_guidance.commands.finetuning.downstream import downstream
    from attention_guidance.commands.finetuning.settings import FinetuneSettings

    folder = arguments.data / language / "ner"
    text, flags = _text(language, folder, arguments)
    runs = [_pretrained(language, arm, seed, text, flags, arguments.runs) for arm in _ARMS]
    files = {split: folder / f"{split}.txt" for split in ("train", "dev", "test")}
    settings = FinetuneSettings(
        "ner", files, repair=True, seeds=arguments.finetune_seeds, learning_rates=tuple(arguments.learning_rates)
    )
    output = arguments.runs / f"{language}-{flags['max_steps']}-{seed}-ner"
    print(f"fine-tuning {output.name}", file=sys.stderr, flush=True)
    found = downstream([str(run) for run in runs], settings, output, resume=True, overwrite=True, quiet=True)
    over = {
        arm: json.loads((output / run.name / "finetune.json").read_text(encoding="utf-8"))["combined"]
        for arm, run in zip(_ARMS, runs, strict=True)
    }
    return {
        **{name: value for name, value in found.items() if name != "command"},
        "kind": "low_resource",
        "language": language,
        "seed": seed,
        "steps": flags["max_steps"],
        "train_seconds": {arm: _results(run)["train_seconds"] for arm, run in zip(_ARMS, runs, strict=True)},
        "combined_over_baseline": {arm: of_arm["over_baseline"] for arm, of_arm in over.items()},
        "weights": {arm: of_arm["weights"] for arm, of_arm in over.items()},
    }


def _text(language: str, ner: Path, arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The cleaned text, and the settings that the recipe chooses for it."""
    from attention_guidance.commands.finetuning.examples.reading import read_examples
    from attention_guidance.commands.finetuning.examples.tasks import get_task
    from attention_guidance.commands.recipe.clean import clean
    from attention_guidance.commands.recipe.rules import choose
    from attention_guidance.commands.studies.sample import Text

    task = get_task("ner")
    data = read_examples(task, {split: ner / f"{split}.txt" for split in ("train", "dev", "test")}, repair=True)
    held_out = [" ".join(e.texts) for split in ("dev", "test") for e in data.splits[split]]
    kept, facts = clean(Text(files=(str(ner.parent / "train.txt"),)).read(), held_out)
    file: Path = arguments.runs / f"{language}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": document.text}, ensure_ascii=False) + "\n" for document in kept)
    if not file.exists() or file.read_text(encoding="utf-8") != lines:
        file.write_text(lines, encoding="utf-8")
    # The vocabulary follows from the text, as in the recipe, where the rule is a bound.
    flags = {choice.name: choice.value for choice in choose(facts) if choice.name != "vocab_size"}
    return file, flags | ({"max_steps": arguments.steps} if arguments.steps else {})


def _pretrained(language: str, arm: str, seed: int, text: Path, flags: dict[str, Any], runs: Path) -> Path:
    """A finished run; one that was stopped continues."""
    from attention_guidance.commands.pretraining.pretrain import pretrain
    from attention_guidance.commands.pretraining.settings.config import make_config

    output = runs / f"{language}-{arm}-{flags['max_steps']}-{seed}"
    print(f"pre-training {output.name}", file=sys.stderr, flush=True)
    given = flags | {"corpus": [str(text)], "seed": seed, "save_every": 500}
    pretrain(make_config(given if arm == "guided" else given | {"heads": ""}), output, resume=True, quiet=True)
    return output


def _results(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return content


def show(path: Path) -> str:
    """The newest result of each language, seed and number of steps, as Markdown."""
    newest = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        newest[record["language"], record["steps"], record["seed"]] = record
    if not newest:
        return "nothing is kept yet"
    head = (
        "language", "steps, seed", "fine-tunings", "CRF", "unguided", "guided", "unguided + CRF", "guided + CRF",
        "guided + CRF − CRF (95 %)", "guided + CRF − unguided + CRF (95 %)", "XLM-R base", "AfroXLMR base",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = [head, ("---",) * len(head)]
    for (language, steps, seed), record in sorted(newest.items()):
        models, both = ([100 * side["mean"] for side in record[name]] for name in ("models", "combined"))
        published = PUBLISHED.get(language, {})
        rows.append(
            (
                language.capitalize(),
                f"{steps:,}, {seed}",
                str(record["models"][0]["seeds"]),
                f"{100 * record['baseline']['test']['f1']:.1f}",
                *(f"{mean:.1f}" for mean in (*models, *both)),
                _gap(record["combined_over_baseline"]["guided"]),
                _gap(record["combined_differences"][0]),
                *(f"{published[name]:.1f}" if name in published else "–" for name in head[-2:]),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _gap(gap: dict[str, Any]) -> str:
    value, low, high = (100 * gap[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    sys.exit(main())
