from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.commands.pretraining.saving.resuming import other_run
from attention_guidance.commands.pretraining.settings.arguments import training_arguments, use_one_device
from attention_guidance.commands.pretraining.settings.config import RunConfig, make_config, write_yaml
from attention_guidance.commands.pretraining.settings.presets import PRESETS, get_preset
from attention_guidance.errors import ConfigError


@pytest.fixture
def yaml_file(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


def test_the_defaults_are_those_of_mini():
    mini = vars(get_preset("mini"))
    assert {name: getattr(RunConfig(), name) for name in mini} == mini
    assert make_config({}) == RunConfig()


def test_preset_then_file_then_flags(yaml_file):
    path = yaml_file("preset: small\nlayers: 5\nhidden: 256\nweight: 1\n")
    config = make_config({"layers": 7, "heads": None}, path)
    assert (config.preset, config.layers, config.hidden, config.dropout) == ("small", 7, 256, 0.1)
    assert config.heads == RunConfig().heads
    assert (config.weight, type(config.weight)) == (1.0, float)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_beside_a_file_wins_over_it_as_a_whole(tmp_path, yaml_file, name):
    """What a run has written has every size in it."""
    write_yaml(make_config({"preset": "attention-24", "weight": 0.3, "seed": 7}), tmp_path / "whole.yaml")
    for file in (tmp_path / "whole.yaml", yaml_file("layers: 5\nmax_steps: 7\nweight: 0.3\nseed: 7\n")):
        config = make_config({"preset": name}, file)
        assert config == make_config({"preset": name, "weight": 0.3, "seed": 7})
        # And what is typed besides over the preset.
        assert make_config({"preset": name, "max_steps": 9}, file) == dataclasses.replace(config, max_steps=9)


def test_a_kind_of_model_that_is_the_file_s_own_choice_stays(yaml_file):
    config = make_config({"preset": "small"}, yaml_file("preset: tiny\narch: modernbert\nlayers: 4\n"))
    assert (config.arch, config.layers, config.hidden) == ("modernbert", 6, 512)
    assert make_config({"preset": "small"}, yaml_file("preset: attention-24\narch: attention-only\n")).arch is None


@pytest.fixture
def model_of(tmp_path):
    """The folder of a configuration, as a trained model's."""
    from transformers import AutoConfig

    def write(kind: str, positions: int, **more) -> str:
        sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
        config = AutoConfig.for_model(kind, **sizes, max_position_embeddings=positions, **more)
        config.save_pretrained(tmp_path / kind)
        return str(tmp_path / kind)

    return write


@pytest.mark.parametrize(
    ("kind", "more", "longest"),
    [("roberta", {"pad_token_id": 1}, 64), ("roberta", {"pad_token_id": 0}, 65), ("bert", {"pad_token_id": 1}, 66)],
)
def test_a_block_nobody_asked_for_is_no_longer_than_the_model_takes(model_of, yaml_file, kind, more, longest):
    model = model_of(kind, 66, **more)
    given = {"init_from": model}
    assert make_config(given).block_size == longest
    assert make_config({"arch_config": f"{model}/config.json"}).block_size == longest
    assert make_config(given | {"preset": "tiny"}).block_size == min(64, longest)
    # What was asked for is not changed in silence: the run says that it is too much.
    assert make_config(given | {"block_size": 128}).block_size == 128
    assert make_config(given, yaml_file("block_size: 100\n")).block_size == 100


def test_the_preset_of_a_resumed_run_named_again_leaves_its_sizes(tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text("preset: tiny\nlayers: 3\nmax_steps: 7\n", encoding="utf-8")
    again = make_config({"preset": "tiny"}, resumed=run)
    assert (again.preset, again.layers, again.max_steps) == ("tiny", 3, 7)
    other = make_config({"preset": "mini"}, resumed=run)
    assert (other.preset, other.layers) == ("mini", make_config({"preset": "mini"}).layers)


def test_blocks_are_the_preset_s_where_the_model_takes_more(model_of):
    assert make_config({"init_from": model_of("modernbert", 8192)}).block_size == 128
    assert make_config({"init_from": model_of("bert", 512)}).block_size == 128


def test_a_preset_must_not_contradict_the_model(model_of, yaml_file):
    message = "preset='small' has layers=6, but `init_from` decides that it is 4; leave `preset` out"
    model = model_of("bert", 512)
    with pytest.raises(ConfigError, match=message):
        make_config({"init_from": model, "preset": "small"})
    with pytest.raises(ConfigError, match=message):
        make_config({"preset": "small"}, yaml_file(f"init_from: {model}\nlayers: 4\nmax_steps: 5\n"))
    with pytest.raises(ConfigError, match="preset='mini' has hidden=256, but `arch_config` decides that it is 128"):
        make_config({"arch_config": f"{model}/config.json", "preset": "mini"})
    # One that agrees brings its settings of training.
    assert make_config({"init_from": model, "preset": "tiny"}).max_steps == PRESETS["tiny"].max_steps


def test_a_run_s_own_settings_make_the_same_run(tmp_path, model_of):
    """Its model decides the sizes, and its preset is the default."""
    config = make_config({"init_from": model_of("bert", 66), "max_steps": 7})
    write_yaml(config, tmp_path / "run.yaml")
    assert make_config({}, tmp_path / "run.yaml") == config
    assert other_run(config, tmp_path / "run.yaml") is None


@pytest.mark.parametrize("field", ["tokenizer", "init_from"])
def test_the_folder_of_a_run_is_taken_for_what_is_in_it(whole_run, monkeypatch, field):
    part = {"tokenizer": "tokenizer", "init_from": "model"}[field]
    monkeypatch.chdir(whole_run)
    for given in (str(whole_run), f"{whole_run}/", str(whole_run / part), "."):
        assert getattr(make_config({field: given}), field) == str(whole_run / part)


def test_a_comparison_is_no_model(tmp_path):
    run = tmp_path / "seed-1" / "guided"
    run.mkdir(parents=True)
    for folder in (run, tmp_path):
        write_yaml(RunConfig(), folder / "run.yaml")
    with pytest.raises(ConfigError, match=r"is a comparison; give one of its runs, such as .*seed-1/guided$"):
        make_config({"init_from": str(tmp_path)})
    with pytest.raises(ConfigError, match="is an unfinished run; give one of its checkpoints"):
        make_config({"init_from": str(run)})


def test_a_run_goes_through_yaml_in_full(tmp_path):
    config = make_config(
        {
            "corpus": ["a b.txt", "ünï"],
            "preset": "roberta-8",
            "hold": 20_000,
            "learning_rate": 3e-5,
            "token_classes": {"comma": [",", ";", "yes", "1"]},
            "arguments": {"adam_epsilon": 1e-6, "lr_scheduler_kwargs": {"num_cycles": 1}, "debug": ["a", 1]},
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
    assert (config.learning_rate, config.hold, config.end) == (0.001, 5, 0.9)
    # One text for a list of one; absolute, as in a list.
    assert config.corpus == [str(Path("one.txt").absolute())]


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
        ("preset: [mini]", r"preset=\['mini'\] in .* must be str"),
        ("preset: minni", "unknown preset 'minni'"),
        ("- a", "must have fields such as"),
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
        ({"max_steps": 7, "max_time": "1h"}, "max_steps=7 is for a run without `max_time`"),
        ({"weight": 0.3, "relative_weight": 2.0}, "weight=0.3 is for a run without `relative_weight`"),
        ({"weight": 0.1, "relative_weight": 2.0}, "weight=0.1 is for a run without `relative_weight`"),
        ({"objective": "mim", "tokenizer": "here"}, "tokenizer='here' is for objectives of text"),
        ({"objective": "speech", "pad_vocab": 64}, "pad_vocab=64 is for objectives of text"),
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
    ("saved", "given", "message"),
    [
        ({}, {"weight": 0.3}, "a run with weight=0.1, not 0.3"),
        ({}, {"relative_weight": 0.02}, "a run with relative_weight=None, not 0.02"),
        ({"relative_weight": 0.02}, {"relative_weight": 0.04}, "a run with relative_weight=0.02, not 0.04"),
        ({"relative_weight": 0.02}, {"weight": 0.3}, "weight=0.3 is for a run without `relative_weight`"),
        ({"relative_weight": 0.02}, {"weight": 0.1}, "weight=0.1 is for a run without `relative_weight`"),
    ],
)
def test_resuming_with_another_weight_is_refused(tmp_path, saved, given, message):
    write_yaml(make_config(saved), file := tmp_path / "run.yaml")
    try:
        said = other_run(make_config(given, resumed=file), file)
    except ConfigError as error:
        said = str(error)
    assert said is not None
    assert message in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be above 0"),
        ({"pad_vocab": 0}, "pad_vocab=0 must be above 0"),
        ({"max_steps": 10**23}, "is too large; the maximum is 1,000,000,000"),
        ({"token_classes": {"comma": []}}, r"token_classes={'comma': \[\]} has a class without tokens"),
    ],
)
def test_sizes_out_of_range(given, message):
    with pytest.raises(ConfigError, match=message):
        make_config(given)


def test_resuming_with_another_setting_names_both_values(tmp_path):
    write_yaml(RunConfig(max_steps=10), tmp_path / "run.yaml")
    assert other_run(RunConfig(max_steps=10), tmp_path / "run.yaml") is None
    assert "max_steps=10, not 20" in str(other_run(RunConfig(max_steps=20), tmp_path / "run.yaml"))


def test_arguments_of_the_trainer(tmp_path):
    config = make_config({"arguments": {"adam_epsilon": "1e-6", "lr_scheduler_type": "cosine"}, "report_to": "none"})
    arguments = training_arguments(config, RunFolder(tmp_path / "run"))
    assert (arguments.adam_epsilon, arguments.lr_scheduler_type) == (1e-6, "cosine")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"max_steps": 6000}, 10),
        ({"max_steps": 200_000}, 100),  # every checkpoint holds the whole log
        ({"max_steps": 200_000, "eval_every": 7}, 7),
        ({"max_time": "3h"}, 10),
    ],
)
def test_long_runs_log_less_often(tmp_path, given, steps):
    assert training_arguments(make_config(given), RunFolder(tmp_path / "run")).logging_steps == steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adam_epsilom": 1e-6}, r"arguments\['adam_epsilom'\]: .* no such field"),
        ({"adam_epsilon": "small"}, r"arguments\['adam_epsilon'\]='small' must be float"),
        ({"torch_empty_cache_steps": "few"}, r"arguments\['torch_empty_cache_steps'\]='few' must be int"),
        ({"seed": 3}, r"arguments\['seed'\]: use `seed`"),
        ({"lr_scheduler_type": "stairs"}, "transformers' TrainingArguments: .*stairs"),
        ({"accelerator_config": "none.json"}, "transformers' TrainingArguments: .*none.json"),
        ({"accelerator_config": "/"}, "transformers' TrainingArguments: .*directory"),
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
