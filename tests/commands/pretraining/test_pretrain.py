"""What a pre-training run leaves behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import attention_guidance

# An import of this package raises ImportError, as if it were not installed.
PLAIN = """
import sys
sys.modules["attention_guidance"] = None
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
text = "abc<mask> def"
filled = pipeline("fill-mask", model=model, tokenizer=tokenizer)(text)
assert len(filled) == 5, filled
assert tokenizer.decode(tokenizer("A b\\u00e9c.\\n x")["input_ids"], skip_special_tokens=True) == "A b\\u00e9c.\\n x"
print(model.config._attn_implementation, type(model).__name__)
"""


def test_the_model_loads_without_this_package(whole_run: Path):
    process = subprocess.run(
        [sys.executable, "-c", PLAIN, str(whole_run / "model")], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["sdpa", "RobertaForMaskedLM"]


def test_checkpoints_load_as_models_too(whole_run: Path):
    from transformers import AutoModelForMaskedLM

    newest = max((whole_run / "checkpoints").glob("checkpoint-*"))
    assert AutoModelForMaskedLM.from_pretrained(newest).config.num_hidden_layers == 1


def test_the_run_is_written_down(whole_run: Path, arguments: list[str]):
    config = yaml.safe_load((whole_run / "run.yaml").read_text())
    assert config["corpus"] == [arguments[0]]
    assert config["max_steps"] == 60
    assert "<mask>" in (whole_run / "tokenizer" / "tokenizer.json").read_text()
    results = json.loads((whole_run / "results.json").read_text())
    card = (whole_run / "model" / "README.md").read_text()
    assert f"{results['final_loss']:.3f} nats" in card
    assert "`next:1`" in card


def test_guidance_is_in_the_logs_and_on_tensorboard(arguments: list[str], cli, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    short = [*arguments, "--max-steps", "4", "--report-to", "tensorboard", "--eval-every", "2"]
    assert cli("pretrain", *short, "-o", tmp_path / "run", "-q") == 0
    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    assert {"train/loss", "train/guidance", "train/guidance_weight", "eval/loss"} <= set(events.Tags()["scalars"])
    state = json.loads((tmp_path / "run/checkpoints/checkpoint-4/trainer_state.json").read_text())
    assert all("guidance" in entry for entry in state["log_history"] if "loss" in entry)


def test_a_run_is_resumed_from_another_folder(arguments: list[str], cli, tmp_path: Path, monkeypatch):
    corpus = Path(arguments[0])
    rest = [*arguments[1:], "--max-steps", "4", "-o", str(tmp_path / "run"), "-q", "--resume"]
    monkeypatch.chdir(corpus.parent)
    assert cli("pretrain", corpus.name, *rest) == 0
    monkeypatch.chdir(tmp_path)
    assert cli("pretrain", corpus, *rest) == 0


def test_text_that_looks_like_markup_is_shown_as_it_is(tmp_path, cli, corpus, arguments, capsys):
    path = tmp_path / "markup.txt"
    path.write_text(corpus.read_text() + "\n".join("[/]" * (100 + n) for n in range(9)))
    assert cli("pretrain", path, *arguments[1:], "--max-steps", "1", "-o", tmp_path / "run") == 0
    assert "starts with '[/][/]" in " ".join(capsys.readouterr().out.split())


def test_brackets_in_the_name_of_a_run_are_shown_as_they_are(tmp_path, cli, arguments, capsys, monkeypatch):
    """As rich's markup, `[/b]` that closes nothing would be a traceback at the end of the run."""
    monkeypatch.setenv("COLUMNS", "300")
    output = tmp_path / "run [bold]" / "[/b]"
    assert cli("pretrain", *arguments, "--max-steps", "1", "-o", output) == 0
    assert str(output / "model") in capsys.readouterr().out
    assert cli("pretrain", "-o", output, "--resume") == 0
    assert f"the run in {output} is already finished" in capsys.readouterr().out


def test_no_command_reads_what_it_prints_as_markup():
    root = Path(attention_guidance.__file__).parent
    printing = "from attention_guidance.commands.printing import "
    files = {file: file.read_text(encoding="utf-8") for file in root.rglob("*.py") if file.name != "printing.py"}
    assert sum(printing in text for text in files.values()) > 10
    of_rich = r"rich\.console|rich\.table import Table|from rich import|task\.description"
    assert [file.name for file, text in files.items() if re.search(of_rich, text)] == []


@pytest.mark.parametrize(
    "command",
    [
        ["pretrain"],
        ["pretrain", "-q"],
        ["pretrain", "--preset", "tiny"],
        ["pretrain", "--preset", "tiny", "--overwrite"],
        ["pretrain", "--config", "settings.yaml"],
        ["compare"],
        ["compare", "--seeds", "2"],
        ["compare", "--heads", "next:1"],
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_what_is_not_there_is_not_resumed(command, there, cli, tmp_path, capsys, monkeypatch):
    """A mistyped folder, or a run stopped while its text was packed: no run of defaults takes its place."""
    monkeypatch.chdir(tmp_path)
    Path("settings.yaml").write_text("max_steps: 3\n")
    for name in ("pretrain", "compare"):
        monkeypatch.setattr(
            f"attention_guidance.commands.pretraining.{name}.{name}", lambda *_, **__: pytest.fail("trains")
        )
    if there:
        (tmp_path / "run").mkdir()
    assert cli(*command, "-o", tmp_path / "run", "--resume") == 2
    assert f"--output {tmp_path / 'run'} holds no run to resume; give the run's text and" in capsys.readouterr().err
    assert (tmp_path / "run").exists() == there
