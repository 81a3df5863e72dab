"""A setting is declared once, and all else is made of that: flag, help, file, checks, arguments of Trainer, page."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import pytest
import yaml

from attention_guidance.commands import cli as command_line
from attention_guidance.commands.cli import pretraining
from attention_guidance.commands.cli.flags import flags_of, with_flags
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.saving.resuming import other_run
from attention_guidance.commands.pretraining.settings import config as layering
from attention_guidance.commands.pretraining.settings.arguments import training_arguments
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config, write_yaml
from attention_guidance.commands.setting import SHARE_OR_0, Rule, setting, settings_of
from attention_guidance.errors import ConfigError
from attention_guidance.loss.aggregate import NORMALIZATIONS
from attention_guidance.loss.statistics import OBJECTIVES

TABLES = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "settings.py"))["tables"]
# As runs wrote it before settings were declared in one place.
OLD_FILE = """\
corpus:
- /texts/news.txt
dataset: null
dataset_config: null
dataset_split: train
validation: []
validation_share: 0.02
max_validation_tokens: 32768
text_field: text
documents: auto
errors: strict
tokenizer: null
vocab_size: 4096
pad_vocab: null
line_by_line: false
preset: mini
arch: null
arch_config: null
init_from: null
layers: 4
hidden: 256
attention_heads: 8
feed_forward: 1024
dropout: 0.0
block_size: 128
batch_size: 32
accumulation: 1
max_steps: 1500
max_time: null
learning_rate: 0.001
warmup_share: 0.06
weight_decay: 0.01
max_grad_norm: 1.0
objective: mlm
masking_rate: 0.15
final_masking_rate: null
generator_share: 0.5
guided_part: discriminator
image_size: 64
patch_size: 8
precision: auto
shard: false
heads: next:1 previous:1 first:0.25
weight: 0.1
loss: squared_error
normalization: query
backend: auto
schedule: hold-then-linear
hold: 20
end: 1.0
token_classes:
  comma:
  - ','
  - ;
seed: 1
eval_every: null
save_every: null
keep_checkpoints: 2
report_to: tensorboard
arguments:
  adam_epsilon: 1.0e-06
"""


@dataclasses.dataclass(frozen=True)
class Larger(RunConfig):
    """A run with one setting more."""

    momentum: float = setting(
        0.9,
        "decay of the first moment, beside `weight_decay`",
        SHARE_OR_0,
        group="training",
        needs=(Rule("steps", lambda run: run.max_time is None),),
        fills="adam_beta1",
    )


@pytest.fixture
def larger(monkeypatch):
    for module in (command_line, pretraining, layering):
        monkeypatch.setattr(module, "RunConfig", Larger)


@pytest.fixture
def said(capsys, tmp_path):
    """What `pretrain` says to its arguments, which it must not train with."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit):
            command_line.main(["pretrain", "-o", str(tmp_path / "run"), *map(str, arguments)])
        assert not (tmp_path / "run").exists()
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    return run


@pytest.mark.usefixtures("larger")
class TestOneDeclaration:
    def test_is_a_flag_with_help(self, said):
        assert "--momentum X decay of the first moment, beside --weight-decay (default: 0.9)" in said("--help")

    def test_is_checked_and_named_as_it_was_given(self, said, tmp_path):
        assert said("--momentum", "1") == "error: --momentum 1.0: must be at least 0 and below 1"
        assert said("--momentum", "0.8", "--max-time", "1h") == "error: --momentum 0.8 is for steps; leave it out"
        file = tmp_path / "settings.yaml"
        file.write_text("momentum: 1\n")
        assert said("--config", file) == "error: momentum=1.0 must be at least 0 and below 1"
        file.write_text("momentum: high\n")
        assert said("--config", file) == f"error: momentum='high' in {file} must be float"

    def test_is_read_and_written(self, tmp_path):
        write_yaml(make_config({"momentum": 0.8}), tmp_path / "run.yaml")
        assert yaml.safe_load((tmp_path / "run.yaml").read_text())["momentum"] == 0.8
        assert make_config({}, tmp_path / "run.yaml").momentum == 0.8
        assert make_config({"momentum": 0.7}, tmp_path / "run.yaml").momentum == 0.7
        assert "momentum=0.8, not 0.7" in other_run(make_config({"momentum": 0.7}), tmp_path / "run.yaml")

    def test_reaches_trainer_and_reserves_its_argument(self, tmp_path):
        assert training_arguments(make_config({"momentum": 0.8}), RunFolder(tmp_path / "run")).adam_beta1 == 0.8
        with pytest.raises(ConfigError, match=r"arguments\['adam_beta1'\]: use `momentum`"):
            training_arguments(make_config({"arguments": {"adam_beta1": 0.8}}), RunFolder(tmp_path / "run"))

    def test_has_a_row_of_the_page(self):
        row = "| `momentum` | `--momentum X` | 0.9 | decay of the first moment, beside `weight_decay`; "
        assert f"{row}must be at least 0 and below 1; for steps |\n" in TABLES(Larger)


def test_every_setting_is_declared_with_help_and_a_row():
    names = [field.name for field in dataclasses.fields(RunConfig)]
    assert [*settings_of(RunConfig)] == names
    assert all(declared.help for declared in settings_of(RunConfig).values())
    assert all(f"\n| `{name}` | `" in TABLES(RunConfig) for name in names)


def test_a_file_that_runs_wrote_before_loads(tmp_path):
    (tmp_path / "run.yaml").write_text(OLD_FILE)
    config = make_config({}, tmp_path / "run.yaml")
    before = yaml.safe_load(OLD_FILE)
    assert {name: value for name, value in dataclasses.asdict(config).items() if name in before} == before
    assert other_run(config, tmp_path / "run.yaml") is None


def test_help_names_what_the_library_knows():
    for name, known in {"loss": OBJECTIVES, "normalization": NORMALIZATIONS}.items():
        assert all(value in settings_of(RunConfig)[name].help for value in known)


def test_from_python_settings_have_no_flags(said):
    with pytest.raises(ConfigError, match=r"^validation_share=2\.0 must lie between 0 and 1$"):
        RunConfig(validation_share=2.0)
    assert said("--validation-share", 2) == "error: --validation-share 2.0: must lie between 0 and 1"


@pytest.mark.parametrize(
    ("message", "translated"),
    [
        ("hidden=30 must be a multiple of attention_heads=4", "--hidden 30: must be a multiple of attention_heads=4"),
        ("objective='a b.py:f': there is no file", "--objective 'a b.py:f': there is no file"),
        ("hold=1.5: it", "--hold 1.5: it"),
        ("RUN holds a run with hidden=30, not 40", "RUN holds a run with --hidden 30, not 40"),
        ("corpus=['a b.txt'] must hold text", "CORPUS ['a b.txt']: must hold text"),
        ("arguments['optim']=sgd arguments['x']: no", "--set optim=sgd --set x: no"),
        ("token_classes['comma'] has no tokens", "token_classes['comma'] has no tokens"),
        ("lower `batch_size`, or `unknown`", "lower --batch-size, or `unknown`"),
        ("/data/hidden=30/a.txt: 'hidden=30' is no text", "/data/hidden=30/a.txt: 'hidden=30' is no text"),
    ],
)
def test_messages_in_the_words_of_the_command_line(message, translated):
    given = {"hidden", "objective", "hold", "corpus", "arguments"}
    assert with_flags(message, flags_of(RunConfig), given) == translated
