"""The command line: help, and one clear line for all that can be wrong with what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attention_guidance.commands.cli import main

COMMAND = [sys.executable, "-m", "attention_guidance"]
SIZE = "--layers 2 --hidden 32 --attention-heads 4 --feed-forward 64 --block-size 32 --vocab-size 270 --max-steps 2"
REST = "--batch-size 2 --heads next:1 --report-to none --validation-share 0.1"
TINY = [*SIZE.split(), *REST.split()]
TEXT = "".join(f"This is line {n} of a text, and it has {n * n} words.\n" for n in range(40))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail with exit code 2, one line and nothing written; give that line."""

    def run(*arguments: object, command: str = "pretrain", output: object = None) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as caught:
            main([command, *map(str, arguments), "-o", str(output or tmp_path / "run")])
        said = capsys.readouterr().err
        assert caught.value.code == 2, said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return said

    return run


def test_help_needs_no_torch():
    code = """
import sys
from attention_guidance.commands.cli import _parser, main
_parser()
for arguments in (["--help"], ["pretrain", "--help"], ["compare", "--help"], ["--version"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
print(sorted({"torch", "transformers", "numpy", "yaml"} & set(sys.modules)), file=sys.stderr)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert process.stderr == "[]\n"
    for flag in ("--output", "--preset", "--heads", "--weight", "--max-steps", "--batch-size", "--block-size"):
        assert process.stdout.count(f"{flag} ") >= 2
    for flag in ("--learning-rate", "--seed", "--tokenizer", "--config", "--resume", "--quiet", "--set"):
        assert process.stdout.count(flag) >= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["evaluate"], "invalid choice: 'evaluate'"),
        (["pretrain", "-o", "x", "--layres", "4"], "unrecognized arguments: --layres; did you mean --layers? (see"),
        (["census", "m", "-o", "x", "--text", "y"], "unrecognized arguments: --text y; did you mean --text-field?"),
        (["pretrain", "-o", "x", "a", "-o", "x", "--", "-b"], "unrecognized arguments: -- -b (see attention-guidance"),
        (
            ["pretrain", "-o", "x", "--data=y"],
            "--data=y; did you mean --dataset or --dataset-config or --dataset-split?",
        ),
        (["look", "m", "s", "-o", "x", "--zz"], "unrecognized arguments: --zz (see attention-guidance look --help)"),
        (["pretrain"], "the following arguments are required: -o/--output"),
        (["pretrain", "-o", "x", "--max-steps", "many"], "argument --max-steps: invalid int value: 'many'"),
        (["pretrain", "-o", "x", "--hold", "half"], "'half' must be steps (200) or a share of the run (0.2)"),
        (["pretrain", "-o", "x", "--set", "adam_epsilon"], "expected NAME=VALUE, got 'adam_epsilon'"),
        (["compare", "-o", "x", "--seeds", "two"], "'two' must be an integer of at least 1"),
    ],
)
def test_flags_that_cannot_be_read(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--heads nxt:1", "unknown pattern 'nxt'"),
        ("--heads first:5", "4 heads"),
        ("--heads next@4", "heads 0 to 3"),
        ("--heads 2:|next:1", "layer '2' in heads does not exist: the model has layers 0 to 1"),
        ("--heads next", "cannot read 'next' in heads"),
        ("--preset huge", "unknown preset 'huge'; expected one of tiny"),
        ("--set learning_rat=1", "--set learning_rat: transformers' TrainingArguments has no such field"),
        ("--set optim=sgdd", "TrainingArguments: "),
        ("--weight nan", "--weight nan: must be a finite number"),
        ("--weight inf", "--weight inf: must be a finite number"),
        ("--weight -1", "--weight -1.0: must be 0 or more"),
        ("--learning-rate nan", "--learning-rate nan: must be a finite number"),
        ("--learning-rate inf", "--learning-rate inf: must be a finite number"),
        ("--learning-rate 0", "--learning-rate 0.0: must be above 0"),
        ("--seed 4294967296", "--seed 4294967296: must be 0 or more and below 2**32"),
        ("--hidden 30", "--hidden 30: must be a multiple of --attention-heads 4"),
        ("--accumulation 3", "--batch-size 2: must be a multiple of --accumulation 3"),
        ("--max-steps 0", "--max-steps 0: must be at least 1"),
        ("--loss absolute", "absolute"),
        ("--normalization rows", "unknown normalization 'rows'"),
        ("--backend fast", "unknown backend 'fast'; expected auto or one of reference, batched"),
        ("--schedule stairs", "unknown schedule 'stairs'"),
        ("--hold 1.5", "--hold 1.5"),
        ("--precision fp64", "--precision 'fp64' is unknown"),
        ("--report-to nobody", "--report-to 'nobody' is unknown or not installed"),
        ("--config missing.yaml", "cannot read missing.yaml: No such file"),
        ("--tokenizer nowhere/at/all --vocab-size 300", "leave one of them out"),
    ],
)
def test_settings_are_checked_before_any_text_is_read(given, message, corpus, refusal, monkeypatch):
    monkeypatch.setattr(
        "attention_guidance.commands.pretraining.preparation.text.read_documents",
        lambda *args, **kwargs: pytest.fail("text was read"),
    )
    for command in ("pretrain", "compare"):
        extra = [part.replace("|", " ") for part in given.split()]
        assert message in refusal(corpus, *TINY, *extra, command=command)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on a GPU")
def test_fp16_needs_a_gpu(corpus, refusal):
    assert "--precision 'fp16' needs a GPU" in refusal(corpus, *TINY, "--precision", "fp16")


def test_text_that_is_not_there_or_too_little(tmp_path, refusal):
    assert f"{tmp_path}/no.txt: cannot be read (No such file" in refusal(tmp_path / "no.txt", *TINY)
    (tmp_path / "empty.txt").write_text("\n \n")
    assert "empty.txt: no document" in refusal(tmp_path / "empty.txt", *TINY)
    (tmp_path / "one.txt").write_text("A line.\n")
    assert "1 document" in refusal(tmp_path / "one.txt", *TINY)
    (tmp_path / "few.txt").write_text("A line.\nB line.\nC line.\n")
    few = [tmp_path / "few.txt", *TINY, "--vocab-size", "261"]
    assert "too little text for training text" in refusal(*few)
    assert "lower --batch-size or --block-size" in refusal(*few, "--line-by-line", "--batch-size", "16")


def test_bytes_that_are_no_text(tmp_path, refusal, capsys):
    path = tmp_path / "latin.txt"
    path.write_bytes(TEXT.encode() + b"caf\xe9 au lait\n")
    offset = len(TEXT) + 3
    assert f"{path}: invalid UTF-8 (0xe9) at byte offset {offset}" in refusal(path, *TINY)
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", str(path), *TINY, "--errors", "replace", "-q", "-o", str(tmp_path / "replaced")])
    assert caught.value.code == 0
    (tmp_path / "nul.txt").write_bytes(TEXT.encode() + b"\0")
    assert f"a NUL character (UTF-16, or not text?) at byte offset {len(TEXT)}" in refusal(tmp_path / "nul.txt", *TINY)


def test_validation_on_text_that_is_trained_on(tmp_path, refusal):
    (tmp_path / "same.txt").write_text("The same line, word for word.\n" * 200)
    assert "are repeated in the training text" in refusal(tmp_path / "same.txt", *TINY)


def test_a_vocabulary_larger_than_the_text_supports(corpus, refusal):
    assert "vocabulary size 5000: this text supports only" in refusal(corpus, *TINY, "--vocab-size", "5000")


def test_tokenizers_that_do_not_serve(corpus, tmp_path, refusal):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    without = [*SIZE.replace("--vocab-size 270", "").split(), *REST.split()]
    model = models.WordLevel({"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "[UNK]": 4}, unk_token="[UNK]")
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special).save_pretrained(tmp_path / "no-mask")
    assert "no mask token" in refusal(corpus, *without, "--tokenizer", tmp_path / "no-mask")
    masked = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special, mask_token="[MASK]")
    masked.save_pretrained(tmp_path / "strange")
    assert "knows none of its words" in refusal(corpus, *without, "--tokenizer", tmp_path / "strange")
    assert "no such folder" in refusal(corpus, *without, "--tokenizer", tmp_path / "nowhere")


def test_a_class_without_members_in_the_tokenizer(corpus, refusal):
    given = ["--heads", "stars:1", "--token-class", "stars=★ ☆"]
    assert "pattern 'stars': none of the tokenizer's 270 tokens belongs to this class" in refusal(corpus, *TINY, *given)


def test_outputs_that_cannot_be_used(corpus, tmp_path, refusal, monkeypatch):
    file, full = tmp_path / "file", tmp_path / "full"
    file.write_text("")
    full.mkdir()
    (full / "thesis.tex").write_text("")
    for command, kind in (("pretrain", "run"), ("compare", "comparison")):
        assert f"{file} is a file; give a folder" in refusal(corpus, *TINY, output=file, command=command)
        assert f"{file} is a file; give a folder" in refusal(corpus, *TINY, output=file / "run", command=command)
        assert f"is not empty and holds no {kind}; give" in refusal(corpus, *TINY, output=full, command=command)
        # A corpus inside the folder of the run, and the other way round.
        assert f"is not empty and holds no {kind}; give" in refusal(corpus, *TINY, output=tmp_path, command=command)
        assert "lies in the folder of text" in refusal(tmp_path, *TINY, output=tmp_path / "run", command=command)
        if sys.platform == "linux":
            output = "/proc/no/such/run"
            assert f"{output} cannot be used (" in refusal(corpus, *TINY, output=output, command=command)
    monkeypatch.setattr("attention_guidance.commands.workspace.os.access", lambda path, mode: False)
    assert f"no permission to write in {tmp_path}" in refusal(corpus, *TINY)


def test_an_output_that_holds_another_run(corpus, tmp_path, refusal):
    run = tmp_path / "other"
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", str(corpus), *TINY, "-q", "-o", str(run)])
    assert caught.value.code == 0
    assert "holds a run already; continue it with --resume" in refusal(corpus, *TINY, output=run)
    assert "holds a run with --seed 1, not 2" in refusal(corpus, *TINY, "--seed", 2, "--resume", output=run)


def test_as_a_process(corpus, tmp_path):
    """What only a real process shows: no traceback at exit; a run continues when the reader of its output leaves."""
    process = subprocess.run(
        [*COMMAND, "pretrain", "no.txt", "-o", "run", "-q"], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"error: {tmp_path / 'no.txt'}: cannot be read (No such file or directory); " + (
        "give a readable file or folder of text\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    line = [*COMMAND, "pretrain", str(corpus), *TINY, "-o", str(tmp_path / "run")]
    process = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, "")
    assert (tmp_path / "run" / "results.json").is_file()


def test_memory_that_does_not_suffice(corpus, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("attention_guidance.commands.pretraining.pretrain.pretrain", fail)
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", str(corpus), "-o", str(tmp_path / "run")])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: out of memory; try a smaller batch")


def test_a_schedule_that_ends_before_it_begins(corpus, refusal):
    """In steps against a share it shows only with the run's length, and still before anything is written."""
    assert "comes before hold" in refusal(corpus, *TINY, "--max-steps", "40", "--end", "1")
