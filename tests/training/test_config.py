from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from attention_guidance.errors import ConfigError, RunError
from attention_guidance.training.arguments import training_arguments, use_one_device
from attention_guidance.training.config import RunConfig, check_same_run, make_config, write_yaml
from attention_guidance.training.folder import RunFolder
from attention_guidance.training.presets import PRESETS, get_preset


@pytest.fixture
def yaml_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def test_the_defaults_are_those_of_mini():
    mini = get_preset("mini").settings()
    assert {name: getattr(RunConfig(), name) for name in mini} == mini
    assert make_config({}) == RunConfig()


def test_preset_then_file_then_flags(yaml_file):
    path = yaml_file("preset: small\nlayers: 5\nhidden: 256\nweight: 1\n")
    config = make_config({"layers": 7, "heads": None}, path)
    tiny_in_the_flags = make_config({"preset": "tiny"}, path)
    assert (config.preset, config.layers, config.hidden, config.dropout) == ("small", 7, 256, 0.1)
    assert config.heads == RunConfig().heads
    assert (config.weight, type(config.weight)) == (1.0, float)
    assert (tiny_in_the_flags.max_steps, tiny_in_the_flags.layers) == (PRESETS["tiny"].max_steps, 5)


def test_a_run_goes_through_yaml_in_full(tmp_path):
    config = make_config(
        {
            "corpus": ["a b.txt", "ünï"],
            "preset": "roberta-8",
            "hold": 20_000,
            "learning_rate": 3e-5,
            "token_classes": {"comma": [",", ";", "yes", "1"]},
            "arguments": {"adam_epsilon": 1e-6, "optim": "adamw_torch"},
            "vocab_size": 4096,
            "line_by_line": True,
            "heads": "0-3: next:1; 4-: first@2,3",
        }
    )
    write_yaml(config, tmp_path / "run.yaml")
    assert make_config({}, tmp_path / "run.yaml") == config
    assert set(yaml.safe_load((tmp_path / "run.yaml").read_text())) == {f.name for f in dataclasses.fields(RunConfig)}


def test_numbers_that_yaml_takes_for_text(yaml_file):
    config = make_config({}, yaml_file("learning_rate: 1e-3\nhold: 5\nend: 9e-1\ncorpus: one.txt\n"))
    assert (config.learning_rate, config.hold, config.end, config.corpus) == (0.001, 5, 0.9, ["one.txt"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer: 4", "unknown field 'layer'"),
        ("1: 4", "unknown field '1'"),
        ("max_steps: 1e3", "max_steps='1e3' in .*run.yaml must be int"),
        ("max_steps:", "max_steps=None in .*run.yaml must be int"),
        ("seed: true", "seed=True in .* must be int"),
        ("line_by_line: 1", "line_by_line=1 in .* must be bool"),
        ("weight: high", "weight='high' in .* must be float"),
        ("weight: .nan", "weight=nan must be a finite number"),
        ("learning_rate: .inf", "learning_rate=inf must be a finite number"),
        ("corpus: [1]", r"corpus=\[1\] in .* must hold text"),
        ("token_classes: {comma: ','}", "must hold text"),
        ("token_classes: {comma: [1]}", "must hold text"),
        ("preset: [mini]", "unknown preset"),
        ("- a", "must hold fields such as"),
        ("a: [", "is not YAML"),
        ("seed: 4294967296", "seed=4294967296 must be 0 or more and below"),
        ("hidden: 250", "hidden=250 must be a multiple of attention_heads=8"),
        ("accumulation: 3", "batch_size=32 must be a multiple of accumulation=3"),
        ("errors: ignore", "errors='ignore' is unknown; expected one of strict, replace"),
        ("tokenizer: a\nvocab_size: 300", "leave one of them out"),
    ],
)
def test_what_a_file_must_not_hold(yaml_file, text, message):
    with pytest.raises(ConfigError, match=message):
        make_config({}, yaml_file(text))


def test_the_file_is_not_blamed_for_a_flag(yaml_file):
    with pytest.raises(ConfigError, match=r"^weight='x' must be float$"):
        make_config({"weight": "x"}, yaml_file("weight: 1\n"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator_share": 0.25}, "generator_share=0.25 is for objective rtd"),
        ({"image_size": 32}, "image_size=32 is for objective mim"),
        ({"dataset_split": "test"}, "dataset_split='test' is for a dataset"),
        ({"max_steps": 7, "max_time": "1h"}, "max_steps=7 is for a run without max_time"),
        ({"objective": "mim", "tokenizer": "here"}, "tokenizer='here' is for objectives of text"),
        ({"objective": "speech", "final_masking_rate": 0.3}, "is for objectives that mask tokens"),
    ],
)
def test_what_would_do_nothing(given, message):
    with pytest.raises(ConfigError, match=message):
        make_config(given)


def test_what_a_file_has_may_do_nothing(tmp_path):
    """As that of a run has everything."""
    write_yaml(RunConfig(generator_share=0.25, max_steps=7), tmp_path / "run.yaml")
    assert make_config({"max_time": "1h"}, tmp_path / "run.yaml").max_time == "1h"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be above 0"),
        ({"max_steps": 10**23}, "is more than any run takes; 1,000,000,000 are the most"),
        ({"token_classes": {"comma": []}}, "token_classes: comma has no tokens"),
    ],
)
def test_sizes_out_of_range(given, message):
    with pytest.raises(ConfigError, match=message):
        make_config(given)


def test_resuming_with_another_setting_names_both_values(tmp_path):
    write_yaml(RunConfig(max_steps=10), tmp_path / "run.yaml")
    check_same_run(RunConfig(max_steps=10), tmp_path / "run.yaml")
    with pytest.raises(RunError, match="max_steps=10, not 20"):
        check_same_run(RunConfig(max_steps=20), tmp_path / "run.yaml")


def test_arguments_of_the_trainer(tmp_path):
    config = make_config({"arguments": {"adam_epsilon": "1e-6", "lr_scheduler_type": "cosine"}, "report_to": "none"})
    arguments = training_arguments(config, RunFolder(tmp_path / "run"))
    assert (arguments.adam_epsilon, arguments.lr_scheduler_type) == (1e-6, "cosine")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adam_epsilom": 1e-6}, "--set adam_epsilom: .* no such field"),
        ({"adam_epsilon": "small"}, "--set adam_epsilon='small' must be float"),
        ({"seed": 3}, "--set seed: use --seed"),
        ({"lr_scheduler_type": "stairs"}, "transformers' TrainingArguments: .*stairs"),
    ],
)
def test_arguments_the_trainer_does_not_take(given, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        training_arguments(make_config({"arguments": given}), RunFolder(tmp_path / "run"))


def test_a_process_trains_on_one_gpu(tmp_path):
    arguments = TrainingArguments(str(tmp_path), report_to="none")
    assert arguments.n_gpu <= 1
    arguments._n_gpu = 4
    use_one_device(arguments)
    assert arguments.n_gpu == 1


def test_reporting_to_nobody_known(tmp_path):
    with pytest.raises(ConfigError, match="report_to='nobody' is unknown or not installed"):
        training_arguments(make_config({"report_to": "nobody"}), RunFolder(tmp_path / "run"))
