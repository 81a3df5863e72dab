"""What a pre-training run leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

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
    assert "begins '[/][/]" in " ".join(capsys.readouterr().out.split())
