"""What the commands that look are given in tests: runs, models, sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from attention_guidance.commands.annotations.reflexives import generate_reflexives


def read(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def many_checkpoints(tmp_path_factory, cli, arguments):
    """A run that kept six checkpoints."""
    folder = tmp_path_factory.mktemp("many") / "guided"
    more = ["--keep-checkpoints", "6", "--save-every", "10", "--eval-every", "10"]
    assert cli("pretrain", *arguments, *more, "-o", folder, "-q") == 0
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reflexives.txt"
    made = generate_reflexives(40, plural=False, relative_clauses=False, attractors=False)
    path.write_text("".join(sentence.line() + "\n" for sentence in made))
    return path


@pytest.fixture
def pairs(tmp_path):
    """Minimal pairs of two paradigms; those of one are alike."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [
        {"sentence_good": f"Cat {n} sleeps.", "sentence_bad": f"Cat {n} sleep.", "UID": "agreement",
         "linguistics_term": "subject_verb", "field": "morphology"}
        for n in range(6)
    ]  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    same = {"sentence_good": "The same.", "sentence_bad": "The same."}
    (folder / "b.jsonl").write_text("\n".join([json.dumps(same)] * 3))
    return folder


@pytest.fixture(scope="session")
def long_model(tmp_path_factory, whole_run):
    """A random model that takes longer sequences than the run's."""
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("long") / "model"
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "model", model_max_length=200)
    tokenizer.save_pretrained(folder)
    RobertaModel(
        RobertaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            max_position_embeddings=202,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture
def refusal(cli, capsys):
    def run(*arguments):
        capsys.readouterr()
        assert cli(*arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        return said

    return run
