"""What an objective cannot be given, seen before anything is written."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from transformers import RobertaConfig

from attention_guidance.commands.pretraining.model import told_by
from attention_guidance.commands.pretraining.preparation.objective import objective_of
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.pretrain import pretrain
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.errors import ConfigError, CorpusError, GuidanceError


def test_an_objective_that_there_is_not():
    with pytest.raises(ConfigError, match="objective='mlmm' is unknown; expected one of mlm, "):
        make_config({"objective": "mlmm"})


def test_a_tokenizer_without_a_mask(settings):
    data = prepare_data(settings("mlm"), lambda text: None)
    data.tokenizer.mask_token = None
    with pytest.raises(ConfigError, match="the tokenizer has no mask token"):
        objective_of(settings("rtd"), data.tokenizer)
    assert told_by(data.tokenizer)["vocab_size"] == 280


def test_an_image_that_is_none(settings, images, tmp_path):
    (tmp_path / "1.png").write_bytes((images / "1.png").read_bytes()[:100])
    with pytest.raises(CorpusError, match=r"1\.png: cannot be read as an image"):
        prepare_data(settings("mim", corpus=[str(tmp_path)]), lambda said: None)


def test_an_image_broken_in_the_middle(settings, images, tmp_path):
    content = (images / "1.png").read_bytes()
    place = content.index(b"IDAT") - 4
    data = content[place + 8 : place + 8 + int.from_bytes(content[place : place + 4])]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    broken = chunk(b"IDAT", data[:50]) + chunk(b"\1\2\3\4", b"") + chunk(b"IDAT", data[50:])
    (tmp_path / "1.png").write_bytes(content[:place] + broken)
    with pytest.raises(CorpusError, match=r"1\.png: cannot be read as an image"):
        prepare_data(settings("mim", corpus=[str(tmp_path)]), lambda said: None)


def test_a_recording_of_no_numbers(settings, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(CorpusError, match=r"a\.wav: has samples that are not finite numbers"):
        prepare_data(settings("speech", corpus=[str(tmp_path)]), lambda said: None)


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("mlm", {"heads": "left:1"}, "left"),
        ("mlm", {"heads": "offset:40:1"}, "pattern 'offset:40' reaches beyond block_size=16"),
        ("mim", {"heads": "delimiter:1"}, "pattern 'delimiter' needs tokens, but objective='mim' has none"),
        ("speech", {"hidden": 34}, "cannot create a wav2vec2 model with these settings"),
        ("mim", {"arch": "swin"}, "swin"),
        ("mlm", {"arch": "gpt2"}, "'gpt2' has no masked language model in transformers"),
    ],
)
def test_what_does_not_go_together_is_seen_before_anything_is_written(settings, tmp_path, kind, more, message):
    with pytest.raises(GuidanceError, match=message):
        pretrain(settings(kind, **more), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("speech", "speech continues from a wav2vec2 model, not 'roberta'"),
        ("rtd", "rtd continues from an ELECTRA model, not 'roberta'"),
    ],
)
def test_going_on_with_a_model_of_another_kind(settings, tmp_path, kind, message):
    RobertaConfig(vocab_size=280, hidden_size=32, num_hidden_layers=2, num_attention_heads=2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    objective = objective_of(settings(kind), prepare_data(settings("mlm"), lambda said: None).tokenizer)
    with pytest.raises(ConfigError, match=message):
        objective.trained_model(str(tmp_path))


def test_a_folder_without_images(settings, recordings):
    with pytest.raises(CorpusError, match=r"no images in this folder; expected files ending in \.png"):
        prepare_data(settings("mim", corpus=[str(recordings)]), lambda said: None)


def test_a_recording_that_is_none(settings, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(CorpusError, match=r"a\.wav: cannot be read as audio"):
        prepare_data(settings("speech", corpus=[str(tmp_path)]), lambda said: None)


def test_recordings_too_short(settings):
    with pytest.raises(CorpusError, match="lower `block_size`"):
        prepare_data(settings("speech", block_size=2000), lambda said: None)


def test_nothing_to_learn_from(settings):
    with pytest.raises(ConfigError, match="objective='mim' needs a folder of files to train on"):
        prepare_data(settings("mim", corpus=[]), lambda said: None)


def test_too_few(settings):
    with pytest.raises(CorpusError, match="36 items to train on, but a batch needs 64"):
        prepare_data(settings("mim", batch_size=64), lambda said: None)
