"""The library in an environment of torch, transformers, NumPy and SciPy, and of what these four need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import attention_guidance

TRAINS = """
import sys
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM
from attention_guidance import get_guidance, guide, match_heads
from attention_guidance.analysis import attention_maps, look, take_census

torch.manual_seed(0)
sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
model = RobertaForMaskedLM(RobertaConfig(vocab_size=64, max_position_embeddings=40, **sizes)).train()
guidance = guide(model, "next:1 previous:1 first:1", weight=1.0, schedule="linear", total_steps=60)
ids = torch.randint(5, 64, (4, 12))
optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
errors = []
for _ in range(60):
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    guidance.step()
    errors.append(sum(head.error for head in guidance.per_head()))
assert errors[-1] < 0.5 * errors[0], errors[::10]
assert get_guidance(model) is guidance
guidance.remove()
match_heads(model, "next:1", [{"input_ids": ids}])
take_census(model, {"input_ids": ids}, ["next", "previous"])
attention_maps(model, {"input_ids": ids[:1]})
words = Tokenizer(models.WordLevel({"a": 5, "b": 6}, "a"))
seen = look(model, PreTrainedTokenizerFast(tokenizer_object=words), "b", words=True)
assert seen._repr_html_() and seen.svg().startswith("<svg")
try:
    seen.png()
except ValueError as error:
    assert "pip install matplotlib" in str(error)
print(sorted({name.split(".")[0] for name in sys.modules}))
"""
COMMANDS_ONLY = {"matplotlib", "pyarrow", "sklearn", "accelerate", "PIL", "seqeval", "greenlet", "conllu", "datasets"}


def closure(names: set[str]) -> set[str]:
    """Distributions that the given ones need, themselves included."""
    found: set[str] = set()
    todo = set(names)
    while todo:
        name = todo.pop()
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
        needed = [line for line in distribution.requires or () if "extra ==" not in line]
        todo |= {re.match(r"[\w.-]+", line).group().lower().replace("_", "-") for line in needed} - found
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that sees only the packages of a plain `pip install attention-guidance`."""
    lines = [line for line in metadata.requires("attention-guidance") if "extra ==" not in line]
    assert sorted(re.match(r"[\w.-]+", line).group() for line in lines) == ["numpy", "scipy", "torch", "transformers"]
    folder = tmp_path_factory.mktemp("packages")
    for name in closure({"attention-guidance"}):
        files = metadata.distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            link, target = folder / top, Path(metadata.distribution(name).locate_file(top))
            if target.exists() and not link.exists():
                link.symlink_to(target)
    source = Path(attention_guidance.__file__).parents[1]
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(source)]), "HF_HUB_OFFLINE": "1"}


def run(alone: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    # -S: without the environment that the tests run in.
    return subprocess.run([sys.executable, "-S", *arguments], env=alone, capture_output=True, text=True, check=False)


def test_a_guided_model_trains(alone):
    done = run(alone, "-c", TRAINS)
    assert done.returncode == 0, done.stderr
    assert not COMMANDS_ONLY & set(eval(done.stdout.splitlines()[-1]))
    assert run(alone, "-c", "import accelerate").returncode == 1


@pytest.mark.parametrize("command", ["pretrain", "compare", "census roberta", "finetune x --task cola --train y"])
def test_a_command_says_what_to_install(alone, command, tmp_path):
    done = run(alone, "-m", "attention_guidance", *command.split(), "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'attention-guidance[cli]'" in done.stderr
    assert re.search(rf"{command.split()[0]} needs .*\baccelerate\b", done.stderr)
    assert not (tmp_path / "out").exists()


def test_help_needs_nothing_more(alone):
    for command in ((), ("pretrain",), ("report",)):
        assert run(alone, "-m", "attention_guidance", *command, "--help").returncode == 0
