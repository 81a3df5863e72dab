"""Every command at a size at which it takes a second, with its input: what `faults.py` lets faults happen to."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .fault_injection import run

_SIZE = "--layers 1 --hidden 16 --attention-heads 2 --feed-forward 16 --block-size 32 --vocab-size 280"
_RUN = "--batch-size 4 --accumulation 2 --dropout 0.1 --heads next:1 --report-to none --validation-share 0.05"
_STEPS = "--max-steps 6 --save-every 2 --eval-every 3"
_FIT = "--epochs 1 --seeds 2 --learning-rates 1e-3 --batch-size 16 --max-length 24 --no-baseline"


@dataclass(frozen=True)
class Command:
    """A command and what continues it after a fault.

    Attributes:
        arguments: The command and its arguments, without the output.
        again: Arguments that the next call gets in addition: it resumes, or replaces what is there.
        output: Name of the output below the output folder, for a command that writes one file.
    """

    arguments: tuple[object, ...]
    again: tuple[str, ...] = ("--overwrite",)
    output: str = ""

    def line(self, folder: Path, *, again: bool = False) -> list[object]:
        """The whole command line."""
        return [*self.arguments, "-o", folder / self.output, *(self.again if again else ())]


def _words(chance: random.Random, n: int) -> list[str]:
    return ["".join(chance.choices("abcdefgh", k=4)) for _ in range(n)]


def made_up_text(n_lines: int, seed: int = 0) -> str:
    """Lines of made-up words."""
    chance = random.Random(seed)
    known = _words(chance, 60)
    return "".join(" ".join(chance.choices(known, k=chance.randint(6, 18))) + ".\n" for _ in range(n_lines))


def _write_inputs(folder: Path) -> None:
    chance = random.Random(1)
    (folder / "corpus.txt").write_text(made_up_text(64))
    (folder / "ner").mkdir()
    for split, n in (("train", 24), ("dev", 8), ("test", 8)):
        rows = ["text\tlabel", *(f"{' '.join(_words(chance, 4))}\t{'ab'[i % 2]}" for i in range(n))]
        (folder / f"{split}.tsv").write_text("\n".join([*rows, ""]))
        sentences = [
            [f"{w} O" for w in _words(chance, 5)] + [f"Aa{w} B-PER" for w in _words(chance, 1)] for _ in range(n)
        ]
        (folder / "ner" / f"{split}.txt").write_text("\n\n".join("\n".join(rows) for rows in sentences) + "\n")
    (folder / "long.txt").write_text(made_up_text(360, seed=2))
    (folder / "new.txt").write_text(made_up_text(40, seed=3))
    from attention_guidance.commands.annotations.reflexives import generate_reflexives

    made = generate_reflexives(12, plural=False, relative_clauses=False, attractors=False)
    (folder / "sentences.txt").write_text("".join(sentence.line() + "\n" for sentence in made))


def quick() -> None:
    """In the forked process: leave out what takes long and writes nothing."""
    from attention_guidance.commands.pretraining import compare

    compare.peak_memory = lambda config, tokenizer: 1.0  # type: ignore[attr-defined]


def make_commands(folder: Path) -> dict[str, Command]:
    """Write the input of all commands to a folder, and return them by name."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_inputs(folder)
    corpus, table = (
        folder / "corpus.txt",
        [arg for s in ("train", "dev", "test") for arg in (f"--{s}", folder / f"{s}.tsv")],
    )
    trains = " ".join((_SIZE, _RUN, _STEPS)).split()
    pretrain = ("pretrain", corpus, *trains, "-q")
    run_folder, tuned = folder / "run", folder / "tuned"
    classify = ("--task", "classify", *table, *_FIT.split(), "-q")
    _must((*pretrain, "--eval-every", "2", "--keep-checkpoints", "9"), run_folder)
    _must(("finetune", run_folder, *classify), tuned)
    shutil.copytree(run_folder / "model", folder / "other")
    looks = ("--resamples", "100", "--task", "reflexive")
    resume = ("--resume",)
    return {
        "pretrain": Command(pretrain, resume),
        "compare": Command(("compare", corpus, *trains, "--seeds", "1", "-q"), resume),
        "finetune": Command(("finetune", run_folder, *classify), resume),
        "downstream": Command(("downstream", run_folder, folder / "other", *classify), resume),
        "predict": Command(("predict", tuned, folder / "new.txt", "-q"), output="predicted.jsonl"),
        "recipe": Command(
            ("recipe", "low-resource", folder / "long.txt", "--ner", folder / "ner", "--preset", "tiny", "--max-steps",
             "3", "--vocab-size", "300", "--seeds", "1", "-q"), resume,
        ),
        "tokenizer": Command(("tokenizer", "train", corpus, "--vocab-sizes", "270", "280", "-q")),
        "census": Command(("census", run_folder, corpus, "--sequences", "4", "--similarity-rows", "16", "-q")),
        "ablate": Command(("ablate", run_folder, corpus, "--tokens", "400", "-q")),
        "look": Command(("look", run_folder, "a b c", "-q")),
        "probe": Command(("probe", run_folder, folder / "sentences.txt", *looks, "-q")),
        "skill": Command(("skill", run_folder, "--data", folder / "sentences.txt", *looks[2:], "-q")),
        "report": Command(("report", run_folder, "--sequences", "4", "--sentence", "a b c", "-q")),
    }  # fmt: skip


def _must(arguments: tuple[object, ...], output: Path, prepare: Callable[[], None] = quick) -> None:
    ended = run([*arguments, "-o", output], output, prepare=prepare)
    if ended.code != 0:
        raise RuntimeError(f"{arguments[0]} failed without a fault: {ended.said}")
