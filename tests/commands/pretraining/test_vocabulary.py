"""A model that is trained on keeps its tokens: another tokenizer has them too, under the same ids, or is refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from attention_guidance.commands.pretraining.preparation.vocabulary import check_vocabulary
from attention_guidance.commands.tokenization.kinds import train_kind
from attention_guidance.errors import ConfigError

REST = "--block-size 32 --batch-size 4 --max-steps 4 --save-every 2 --validation-share 0.05"
REST += " --heads next:1 --report-to none"


@pytest.fixture
def go_on(corpus, whole_run, cli, capsys, tmp_path):
    """Go on with the whole run, or a copy of its model, with a tokenizer; gives exit code and what was said."""

    def run(tokenizer, *more, init_from=whole_run):
        arguments = [corpus, *REST.split(), "--init-from", init_from, "--tokenizer", tokenizer, "-o", tmp_path / "out"]
        code = cli("pretrain", *arguments, *more)
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return run


@pytest.fixture
def extended(whole_run, tmp_path):
    """The run's tokenizer with two tokens more."""
    tokenizer = AutoTokenizer.from_pretrained(whole_run / "tokenizer")
    assert tokenizer.add_tokens(["habari", "njema"]) == 2
    tokenizer.save_pretrained(tmp_path / "extended")
    return tmp_path / "extended"


def other(tmp_path: Path, kind: str) -> Path:
    """A tokenizer of as many tokens, of another text."""
    chance = random.Random(1)
    text = " ".join("".join(chance.choices("qrstuvwxyz", k=5)) for _ in range(800))
    train_kind(kind, [text] * 2, 280, max_length=32).save_pretrained(tmp_path / kind)
    return tmp_path / kind


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_another_vocabulary_of_the_same_size_is_refused(go_on, whole_run, tmp_path, kind):
    tokenizer = other(tmp_path, kind)
    code, _, error = go_on(tokenizer)
    assert code == 2
    (line,) = error.splitlines()
    own, given = (AutoTokenizer.from_pretrained(path).get_vocab() for path in (whole_run / "tokenizer", tokenizer))
    share = len(own.items() & given.items()) / len(given)
    assert f"{share:.1%} of its {len(given)} tokens have the same ids as in the model's" in line
    assert f"give --tokenizer {whole_run / 'model'}, or one that only adds tokens to it" in line
    assert not (tmp_path / "out").exists()


def moved(vocabulary: dict[str, int]) -> dict[str, int]:
    """Two ordinary tokens have changed places."""
    first, second = (token for token, number in vocabulary.items() if number in (270, 271))
    return vocabulary | {first: vocabulary[second], second: vocabulary[first]}


def renamed(vocabulary: dict[str, int]) -> dict[str, int]:
    """A token of its own in the place of one of the model's."""
    return {"habari" if number == 270 else token: number for token, number in vocabulary.items()}


def shifted(vocabulary: dict[str, int]) -> dict[str, int]:
    """A token of its own before all others."""
    return {"[NEW]": 0} | {token: number + 1 for token, number in vocabulary.items()}


def cut_off(vocabulary: dict[str, int]) -> dict[str, int]:
    """Without the last ones."""
    return {token: number for token, number in vocabulary.items() if number < 270}


def extended_far(vocabulary: dict[str, int]) -> dict[str, int]:
    """With more, and a gap before them."""
    return vocabulary | {"habari": 400, "njema": 401}


class Tokens:
    """As much of a tokenizer as is looked at."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self.get_vocab = lambda: vocabulary


@pytest.mark.parametrize(
    ("change", "share"),
    [(moved, "99.3%"), (renamed, "99.6%"), (shifted, "0.0%"), (cut_off, None), (extended_far, None)],
)
def test_every_id_stands_for_the_token_it_was_trained_as(whole_run, change, share):
    vocabulary = change(AutoTokenizer.from_pretrained(whole_run / "tokenizer").get_vocab())
    said = []
    if share is None:
        check_vocabulary(str(whole_run / "model"), "given", Tokens(vocabulary), said.append)
    else:
        with pytest.raises(ConfigError, match=f"'given' does not fit .*: {share} of its"):
            check_vocabulary(str(whole_run / "model"), "given", Tokens(vocabulary), said.append)
    assert said == []


def test_two_tokens_more_are_taken(go_on, extended, whole_run, tmp_path):
    assert go_on(extended, "-q", "--learning-rate", "1e-9")[0] == 0
    before, after = (AutoModelForMaskedLM.from_pretrained(run / "model") for run in (whole_run, tmp_path / "out"))
    assert after.config.vocab_size == 282
    ids_BT = torch.randint(5, 280, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(after(ids_BT).logits[..., :280], before(ids_BT).logits, atol=1e-4, rtol=1e-4)
    # Next to nothing was learnt at this rate; two tokens of average likelihood more cost next to nothing.
    losses = [json.loads((run / "results.json").read_text())["final_loss"] for run in (whole_run, tmp_path / "out")]
    assert losses[0] < losses[1] < losses[0] + 0.02


def test_it_is_resumed_exactly(go_on, extended, tmp_path):
    assert go_on(extended, "-q", "--pad-vocab", "64")[0] == 0
    whole = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model").state_dict()
    shutil.rmtree(tmp_path / "out" / "model")
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "checkpoint-4")
    (tmp_path / "out" / "results.json").unlink()
    assert go_on(extended, "-q", "--pad-vocab", "64", "--resume")[0] == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["resumed_from"] == 2
    resumed = AutoModelForMaskedLM.from_pretrained(tmp_path / "out" / "model").state_dict()
    assert whole["roberta.embeddings.word_embeddings.weight"].shape[0] == 320
    for name, weights in whole.items():
        assert torch.equal(resumed[name], weights), name


@pytest.mark.parametrize("given", [".", "model", "tokenizer", "checkpoints/checkpoint-60"])
def test_the_model_s_own_is_taken_from_any_of_its_folders(go_on, whole_run, given):
    assert go_on(whole_run / given, "-q")[0] == 0


def test_a_model_without_a_tokenizer_is_spoken_of(go_on, whole_run, extended, tmp_path):
    bare = tmp_path / "bare"
    AutoModelForMaskedLM.from_pretrained(whole_run / "model").save_pretrained(bare)
    code, said, _ = go_on(extended, init_from=bare)
    assert code == 0
    assert "has no usable tokenizer" in said
    assert "so there is no check" in said


def test_nothing_is_said_where_there_is_one(go_on, extended):
    code, said, _ = go_on(extended)
    assert code == 0
    assert "no check" not in said
