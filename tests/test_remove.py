"""remove() gives back what guidance has put there, and nothing that the user has set since."""

import pytest
import torch
from torch import nn
from transformers import ClapConfig, ClapModel, CLIPConfig, CLIPModel

from attention_guidance import guide
from attention_guidance.analysis import attention_maps

HEADS = "next:1 previous:1 first:1"
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_it_gives_back_what_was_there(make_model, before):
    model = make_model(attn_implementation=before)
    guide(model, HEADS).remove()
    assert model.config._attn_implementation == before


def test_the_end_of_a_with_block_removes(make_model):
    model = make_model(attn_implementation="sdpa")
    with guide(model, HEADS) as handle:
        assert model.config._attn_implementation != "sdpa"
    assert model.config._attn_implementation == "sdpa"
    assert "guided, removed: weight" in str(handle)
    with pytest.raises(KeyError, match="of the user"), guide(model, HEADS):
        raise KeyError("of the user")
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(("before", "after"), [("sdpa", "eager"), ("eager", "sdpa"), ("sdpa", "flex_attention")])
def test_what_the_user_sets_afterwards_stays(make_model, before, after):
    model = make_model(attn_implementation=before)
    handle = guide(model, HEADS)
    model.set_attn_implementation(after)
    handle.remove()
    assert model.config._attn_implementation == after


def test_of_two_models_that_share_a_config(make_model):
    first = make_model()
    second = type(first)(first.config)
    handles = guide(first, HEADS), guide(second, HEADS)
    handles[0].remove()
    first.set_attn_implementation("eager")
    handles[1].remove()
    assert first.config._attn_implementation == "eager"


def test_parts_have_attention_of_their_own():
    text = SIZE | {"vocab_size": 30, "projection_dim": 8}
    audio = {"depths": [1], "num_attention_heads": [2], "patch_embeds_hidden_size": 8, "hidden_size": 8}
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
    model = ClapModel(config)
    config.audio_config._attn_implementation = "sdpa"
    handle = guide(model, "next:1")
    assert model.text_model.config._attn_implementation == "attention_guidance_eager"
    handle.remove()
    assert names_of(config, "text_config", "audio_config") == ["eager", "eager", "sdpa"]


def test_forwards_put_around_attention_afterwards_stay():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), 1)
    handle = guide(model, "next:1")
    attention = model.layers[0].self_attn
    ours, calls = attention.forward, []

    def around(*args, **kwargs):
        calls.append(1)
        return ours(*args, **kwargs)

    attention.forward = around
    handle.remove()
    model(torch.randn(2, 3, 16))
    assert calls == [1]


def test_maps_leave_every_part_its_attention():
    part = SIZE | {"projection_dim": 8}
    texts, images = part | {"vocab_size": 30}, part | {"image_size": 16, "patch_size": 8}
    attention = {"text_config": "eager", "vision_config": "sdpa"}
    config = CLIPConfig(text_config=texts, vision_config=images, projection_dim=8, attn_implementation=attention)
    model = CLIPModel(config)
    before = names_of(config, "text_config", "vision_config")
    assert before[1:] == ["eager", "sdpa"]
    with pytest.raises(AttributeError):  # the model's own: it is given no image
        attention_maps(model, torch.arange(5, 15))
    assert names_of(config, "text_config", "vision_config") == before


def names_of(config, *parts):
    return [part._attn_implementation for part in (config, *(getattr(config, name) for name in parts))]
