"""A small corpus, and runs so small that a step takes milliseconds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# 64 lines are some 95 blocks: at 4 blocks a step the second epoch begins at step 24, the third at step 48.
SIZE = "--layers 1 --hidden 32 --attention-heads 2 --feed-forward 64 --block-size 32 --vocab-size 280"
RUN = "--batch-size 4 --accumulation 2 --dropout 0.1 --max-steps 60 --save-every 3 --eval-every 10 --report-to none"


def made_up_text(n_lines: int) -> str:
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 7))) for _ in range(120)]
    return "".join(" ".join(chance.choices(words, k=chance.randint(6, 18))) + ".\n" for _ in range(n_lines))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(made_up_text(64))
    return path


@pytest.fixture(scope="session")
def arguments(corpus: Path) -> list[str]:
    """The arguments of a run on the corpus, without command and output."""
    return [str(corpus), *SIZE.split(), *RUN.split(), "--validation-share", "0.05", "--heads", "next:1"]


@pytest.fixture(scope="session")
def cli() -> Callable[..., int]:
    """Run the command line in this process: cli("pretrain", ...) gives its exit code."""

    def run(*arguments: object) -> int:
        from attention_guidance.commands.cli import main

        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code

    return run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, arguments: list[str], cli: Callable[..., int]) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert cli("pretrain", *arguments, "-o", folder, "-q") == 0
    return folder


def assert_same_weights(folder: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "model" / "model.safetensors") for path in (folder, other))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line
