"""Numbers that Python refuses to read, and nesting that it cannot, are errors of the file that holds them."""

from __future__ import annotations

import pytest

from attention_guidance.commands.annotations.gap import read_gap
from attention_guidance.commands.annotations.reflexives import read_reflexives
from attention_guidance.commands.annotations.treebanks import read_trees
from attention_guidance.commands.cli import main
from attention_guidance.commands.pretraining.settings.config import read_yaml
from attention_guidance.errors import ConfigError, CorpusError

HUGE = "9" * 5000
GAP = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\n"


def cli(*words):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words)])
    return ended.value.code


@pytest.mark.parametrize(
    ("read", "name", "text"),
    [
        (read_gap, "g.tsv", f"{GAP}1\tAnn met Zoe; she won.\tshe\t{HUGE}\tAnn\t0\tTRUE\tZoe\t8\tFALSE\n"),
        (lambda path: [*read_reflexives(path)], "r.txt", f"she saw herself\t{HUGE}\t0\n"),
        (read_trees, "t.conllu", f"1\tGo\t_\tX\t_\t_\t{HUGE}\troot\t_\t_\n"),
        (read_trees, "t.conllu", f"{HUGE}\tGo\t_\tX\t_\t_\t0\troot\t_\t_\n"),
    ],
)
def test_a_number_of_thousands_of_digits(tmp_path, read, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(CorpusError, match=name.replace(".", r"\.")):
        [*read(tmp_path / name)]


@pytest.mark.parametrize("text", ["[" * 5000, f"seed: {HUGE}", "seed: 2024-99-99", "seed: !!python/name:os.system"])
def test_yaml_that_cannot_be_read(tmp_path, capsys, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        read_yaml(file)
    assert cli("pretrain", "--config", file, "-o", tmp_path / "run") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("value", ["[" * 5000, HUGE, "2024-99-99"])
def test_values_of_set_that_cannot_be_read(tmp_path, capsys, value):
    assert cli("pretrain", "-o", tmp_path / "run", "--set", f"adam_beta1={value}") == 2
    assert "cannot read the value of" in capsys.readouterr().err
