"""What a folder holds is data: code in it runs only where the user named it."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import attempts_by_data
import attempts_by_models
import attempts_by_runs
import numpy as np
import pytest
import torch
import yaml
from attempts import ATTEMPTS, THEIRS, World
from small_runs import arguments, cli, corpus, whole_run

import attention_guidance
from attention_guidance.commands.pretraining.loop.peak_memory import peak_memory
from attention_guidance.commands.pretraining.settings.config import make_config

# The other modules fill ATTEMPTS.
__all__ = [
    "arguments",
    "attempts_by_data",
    "attempts_by_models",
    "attempts_by_runs",
    "cli",
    "corpus",
    "whole_run",
]
SOURCES = Path(attention_guidance.__file__).parent
OBJECTIVE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
def own(ids_T, free_N, tokenizer, generator):
    labels_T = ids_T * 0 - 100
    labels_T[free_N[:3]] = ids_T[free_N[:3]]
    return ids_T, labels_T
"""


def loads_untrusting(call: ast.Call) -> bool:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    value = given.get("trust_remote_code")
    return isinstance(value, ast.Constant) and value.value is False


def loading_calls(source: str) -> list[ast.Call]:
    """Calls of `x.from_pretrained` and `x.from_config`; a configuration can name code too."""
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
    ]


def test_every_load_refuses_code():
    calls = [(path, call) for path in SOURCES.rglob("*.py") for call in loading_calls(path.read_text())]
    assert len(calls) > 12
    assert [f"{path}:{call.lineno}" for path, call in calls if not loads_untrusting(call)] == []


def test_the_sweep_sees_a_load_that_does_not():
    for given, fine in (("x", False), ("x, trust_remote_code=True", False), ("x, trust_remote_code=False", True)):
        (call,) = loading_calls(f"AutoModel.from_pretrained({given})")
        assert loads_untrusting(call) is fine


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that strange code would write; standard input answers every question with yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    return tmp_path / "mark"


@pytest.fixture
def strange(whole_run, tmp_path, mark):
    """A model's folder with a configuration, a model and a tokenizer of its own code."""
    folder = Path(shutil.copytree(whole_run / "model", tmp_path / "strange"))
    leaves_a_mark = f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')"
    (folder / "theirs.py").write_text(THEIRS.format(code=leaves_a_mark))
    classes = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForMaskedLM": "Model"}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {name: f"theirs.{kind}" for name, kind in classes.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer |= {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": [None, "theirs.Tokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


def test_code_of_a_model_does_not_run(strange, mark, corpus, whole_run, arguments, cli, tmp_path, capsys):
    run = ["pretrain", corpus, "--max-steps", "1", "-o", tmp_path / "out", "-q"]
    cli(*run, "--init-from", strange, "--tokenizer", whole_run / "tokenizer")
    assert not mark.exists()
    cli("pretrain", *[a for a in arguments if a not in ("--vocab-size", "280")], "--tokenizer", strange,
        "--max-steps", "1", "-o", tmp_path / "out", "-q")  # fmt: skip
    assert not mark.exists()
    cli("census", strange, "-o", tmp_path / "census", "-q")
    assert not mark.exists()
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in said)
    assert "strange" in said[0]


@pytest.fixture
def theirs(corpus, tmp_path, mark, arguments, cli):
    """A run.yaml that names an objective's file."""
    (tmp_path / "theirs.py").write_text(OBJECTIVE.format(mark=str(mark)))
    objective = f"{tmp_path / 'theirs.py'}:own"
    run = tmp_path / "mine"
    assert cli("pretrain", *arguments, "--objective", objective, "--max-steps", "2", "-o", run, "-q") == 0
    assert mark.exists(), "named on the command line, it runs"
    mark.unlink()
    assert yaml.safe_load((run / "run.yaml").read_text())["objective"] == objective
    return run, objective


def test_an_objective_that_a_file_names_runs_only_when_trusted(theirs, mark, cli, tmp_path, capsys):
    run, objective = theirs
    (run / "results.json").unlink()
    fresh = ["pretrain", "--config", run / "run.yaml", "-o", tmp_path / "new", "-q"]
    resumed = ["pretrain", "-o", run, "--resume", "-q"]
    compared = ["compare", *fresh[1:]]
    for line, source in ((fresh, run / "run.yaml"), (compared, run / "run.yaml"), (resumed, run / "run.yaml")):
        assert cli(*line) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"error: objective={objective!r} in {source} would run code")
        assert "--trust-objective" in said
        assert not mark.exists()
        assert not (tmp_path / "new").exists()
    for trusted in (["--trust-objective"], ["--objective", objective]):
        assert cli(*resumed, *trusted) == 0
        assert mark.exists()
        mark.unlink()
        (run / "results.json").unlink()
    # Nothing of it is kept: the flag is each command's own.
    assert "trust" not in (run / "run.yaml").read_text()
    assert cli(*resumed) == 2


@pytest.fixture
def world(tmp_path, whole_run, arguments, cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    run = Path(shutil.copytree(whole_run, tmp_path / "run"))
    made = World(folder, tmp_path / "mark", run, arguments, cli)
    shutil.rmtree(made.checkpoint)  # that of the last step, which leaves nothing to train
    return made


@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_attempt_runs_code(world, name):
    ATTEMPTS[name](world)
    assert not world.mark.exists()


def test_there_are_many_attempts():
    assert len(ATTEMPTS) >= 60


def test_code_of_the_attempts_would_be_seen(world):
    """Loaded without care, what is planted runs."""
    unsafe = {
        "pickle": lambda: pickle.loads(world.pickled),
        "zip": lambda: torch.load(io.BytesIO(world.zipped()), weights_only=False),
        "legacy": lambda: torch.load(io.BytesIO(world.legacy()), weights_only=False),
        "array": lambda: np.load(io.BytesIO(world.objects()), allow_pickle=True),
        "module": lambda: exec(world.code, {}),
    }
    for name, load in unsafe.items():
        load()
        assert world.mark.exists(), name
        world.mark.unlink()


def unsafe_load(load, **careless):
    return lambda *given, **options: load(*given, **options | careless)


def unsafe_modules(monkeypatch):
    for module in ("auto_factory", "configuration_auto", "tokenization_auto"):
        monkeypatch.setattr(
            f"transformers.models.auto.{module}.resolve_trust_remote_code", lambda *given, **options: True
        )


CARELESS = {
    **dict.fromkeys(
        ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin", "pytorch_model.bin of the old format"),
        lambda patch: patch.setattr("torch.load", unsafe_load(torch.load, weights_only=False)),
    ),
    "step_seconds.npy of objects": lambda patch: patch.setattr("numpy.load", unsafe_load(np.load, allow_pickle=True)),
    "python tags in run.yaml": lambda patch: patch.setattr(
        "attention_guidance.commands.reading.yaml_text._Loader", yaml.UnsafeLoader
    ),
    "auto_map of a new model type": unsafe_modules,
    "auto_map of a tokenizer": unsafe_modules,
    "objective in run.yaml": lambda patch: patch.setattr(f"{PRETRAINING}._only_by_flag", lambda *given: []),
    "PostScript named like an image": lambda patch: patch.setattr(
        "attention_guidance.commands.media.images._FORMATS", None
    ),
}
PRETRAINING = "attention_guidance.commands.cli.pretraining"


@pytest.mark.parametrize("name", CARELESS)
def test_attempts_run_code_without_what_prevents_it(world, monkeypatch, name):
    """Or they would only show that nothing is read."""
    CARELESS[name](monkeypatch)
    with contextlib.suppress(Exception, AssertionError):
        ATTEMPTS[name](world)
    assert world.mark.exists()


@pytest.mark.parametrize("given", ["file", "flag"])
@pytest.mark.parametrize(
    ("name", "value", "flags"),
    [
        ("report_to", "all", ["--report-to", "all"]),
        ("arguments", {"accelerator_config": {}}, ["--set", "accelerator_config={even_batches: true}"]),
    ],
)
def test_services_and_other_files_are_chosen_by_flags_alone(world, capsys, monkeypatch, given, name, value, flags):
    monkeypatch.setattr("transformers.integrations.integration_utils.get_available_reporting_integrations", list)
    content = yaml.safe_load((world.run / "run.yaml").read_text()) | {"max_steps": 1, "save_every": None}
    (world.folder / "run.yaml").write_text(yaml.safe_dump(content | {name: value}))
    words = ["pretrain", "--config", "run.yaml", *(flags if given == "flag" else []), "-o", "out", "-q"]
    assert world.cli(*words) == (0 if given == "flag" else 2), capsys.readouterr().err
    if given == "file":
        (said,) = capsys.readouterr().err.splitlines()
        assert "in run.yaml would" in said
        assert flags[0] in said
        assert name in said
        assert not (world.folder / "out").exists()


MODULES = ("torch", "yaml", "numpy", "transformers", "argparse", "json", "tokenizers", "accelerate", "sitecustomize")


@pytest.fixture
def with_modules(world, monkeypatch):
    """A current folder with modules that are named like libraries."""
    for module in MODULES:
        (world.folder / f"{module}.py").write_text(world.code)
    paths = [str(SOURCES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return world


@pytest.mark.parametrize("start", ["module", "script"])
def test_modules_in_the_current_folder_are_not_imported(with_modules, start):
    world = with_modules
    command = [sys.executable, "-m", "attention_guidance"]
    if start == "script":
        # As the console script that pip writes.
        (world.folder.parent / "bin").mkdir()
        script = world.folder.parent / "bin" / "attention-guidance"
        script.write_text("from attention_guidance.commands.cli import main\nmain()\n")
        command = [sys.executable, str(script)]
    words = [*command, "tokenizer", "train", world.arguments[0], "--vocab-sizes", "270", "-o", "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not world.mark.exists()


def test_nor_where_peak_memory_is_measured(with_modules, monkeypatch):
    monkeypatch.setattr("attention_guidance.commands.pretraining.loop.peak_memory.subprocess", subprocess)
    assert peak_memory(make_config({}, with_modules.run / "run.yaml"), with_modules.run / "tokenizer") > 0
    assert not with_modules.mark.exists()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt", "pytorch_model.bin"])
def test_a_checkpoint_that_cannot_be_loaded_is_an_error_of_one_line(world, capsys, name):
    ATTEMPTS[f"{name} of a checkpoint" if "model" in name else name](world)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {world.checkpoint}: cannot be loaded (")
    assert said.endswith("delete it to continue from the one before")
