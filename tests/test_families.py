"""Every model of transformers without a head: guide() takes it or says why not, and the page lists what comes of it."""

import dataclasses
import re
import warnings
from pathlib import Path

import families
import family_verdicts
import pytest
import torch
from transformers import BertConfig, BertModel, PreTrainedModel
from transformers.utils import logging

from attention_guidance import guide
from attention_guidance.adapters.inputs_outputs import _CLASS_TOKEN
from attention_guidance.analysis import observing
from attention_guidance.errors import AttachError
from attention_guidance.loss import backends

PAGE = Path(__file__).parents[1] / "docs" / "support.md"
SIZE = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
# One of each kind, quick to make; docs/tables.py compares all.
SOME = [
    "BartEncoder", "BeitModel", "CLIPVisionModel", "Dinov2WithRegistersModel", "EuroBertModel", "GteModel",
    "LayoutLMModel", "MT5EncoderModel", "ModernBertModel", "Siglip2VisionModel", "Wav2Vec2Model", "WhisperEncoder",
    "DebertaModel", "DebertaV2Model", "IBertModel", "LayoutLMv3Model", "LiltModel", "LukeModel", "MegatronBertModel",
    "MPNetModel", "RemBertModel", "RoFormerModel", "SqueezeBertModel", "TapasModel", "VisualBertModel", "XLNetModel",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    """Configurations made smaller are not those that transformers expects, and it says so of each."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.set_verbosity(level)


def sections():
    """The part of the page about families: names in backticks by the heading that they stand under."""
    part = PAGE.read_text(encoding="utf-8").split("## Every family")[1].split("## Ways of training")[0]
    tables = dict(section.split("\n", 1) for section in part.split("### ")[1:])
    rows = {heading: re.findall(r"^\| (.*) \| ", table, re.MULTILINE) for heading, table in tables.items()}
    return {heading: set(re.findall(r"`(\w+)`", " ".join(found))) - {"auto"} for heading, found in rows.items()}


def test_every_model_is_guided_or_refused_with_a_reason_and_the_page_lists_those_that_are_guided():
    found, others = {}, {}
    for name, model_class in families.base_classes().items():
        try:
            found[name] = family_verdicts.attached(model_class)
        except Exception as error:
            others[name] = repr(error)
    assert others == {}
    of_kind = {kind: {name for name in found if found[name].kind == kind} for kind in ("attached", "refused")}
    assert len(of_kind["attached"]) > 200
    assert len(of_kind["refused"]) > 500
    listed = set().union(*(names for heading, names in sections().items() if heading != "Could not be made here"))
    assert listed == of_kind["attached"], "docs/support.md is stale: run python docs/tables.py --families"


def test_the_page_has_many_families_and_nothing_wrong():
    exact, *others = sections()
    assert int(re.search(r"Guided exactly: (\d+) families", exact)[1]) >= 135
    assert not any("wrong" in heading for heading in others)


@pytest.mark.parametrize("name", SOME)
def test_families_that_the_page_calls_exact_are(name):
    verdict = family_verdicts.compared(families.base_classes()[name])
    assert verdict.kind == "exact", verdict.reason
    assert name in next(iter(sections().values()))


@pytest.mark.parametrize(
    ("field", "wrong"), [("mass_BHQ", lambda mass: mass * 1.0001), ("squares_BHQ", lambda squares: squares.detach())]
)
def test_the_comparison_sees_a_wrong_loss_and_a_wrong_gradient(monkeypatch, field, wrong):
    def attend(call, right=backends.BACKENDS["batched"].attend):
        out, rows = right(call)
        return out, dataclasses.replace(rows, **{field: wrong(getattr(rows, field))})

    broken = dataclasses.replace(backends.BACKENDS["batched"], attend=attend)
    monkeypatch.setitem(backends.BACKENDS, "batched", broken)
    assert family_verdicts.compared(families.base_classes()["BertModel"]).kind == "WRONG"


def test_decoders_are_not_called_exact():
    classes = families.base_classes()
    assert family_verdicts.attached(classes["LlamaModel"]).kind == "refused"
    assert family_verdicts.compared(classes["CLIPTextModel"]).kind == "refused in a pass"
    verdict = family_verdicts.compared(classes["Aimv2TextModel"])
    assert verdict.kind == "refused in a pass"
    assert "attends causally" in verdict.reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SamModel", r"its SamConfig does not say how many hidden layers it has \(num_hidden_layers\)"),
        ("RTDetrModel", "its RTDetrConfig does not say how many hidden layers"),
        ("Dots3NoteModel", "guidance needs the same number in all layers|decoder"),
        ("SwinModel", "does not call its attention|same number in all layers"),
        (
            "GitModel",
            r"its attention is that of a part of it \(GitVisionConfig\).*guide\(\) takes its image_encoder alone",
        ),
        (
            "BartModel",
            r"it is an encoder-decoder; guidance is for.*guide\(\) takes its encoder alone, with within= the whole",
        ),
        ("CLIPModel", r"4 attention modules for 2 layers.*takes its text_model or vision_model alone"),
    ],
)
def test_refusals_name_the_reason_and_a_part_that_can_be_guided(name, message):
    verdict = family_verdicts.attached(families.base_classes()[name])
    assert verdict.kind == "refused"
    assert re.search(message, verdict.reason), verdict.reason


def test_the_class_token_is_the_first_position():
    """Of every model that guide() takes `class_token` for: its parameter changes what comes first, and not a patch."""
    for name in ("ViTModel", "DeiTModel", "CLIPVisionModel", "Dinov2WithRegistersModel", "RadioModel", "PixioModel"):
        model = families.prepared(families.built(families.base_classes()[name], "cpu", narrower=8))
        (token,) = (p for key, p in model.named_parameters() if _CLASS_TOKEN.fullmatch(key))
        queries = []
        with observing(model, lambda layer, call, queries=queries: queries.append(call.query_BHQD.clone())) as watched:
            for _ in range(2):
                watched(next(families.inputs_of(model)))
                token.data += torch.randn_like(token)
        changed_T = (queries[0] - queries[model.config.num_hidden_layers]).abs().amax((0, 1, 3)) > 1e-9
        assert changed_T[0], name
        assert not changed_T[-16:].any(), name


def test_configurations_of_several_texts():
    """transformers raises a plain ValueError where it cannot tell which of them is meant."""
    config = BertConfig(**SIZE)
    config.text_encoder, config.text_config = BertConfig(**SIZE), BertConfig(**SIZE)
    with pytest.raises(AttachError, match=r"BertModel cannot be guided: it has several parts .*text_encoder"):
        guide(BertModel(config), "next:1")


def test_layers_configured_by_a_kin_of_the_model_are_its_own():
    """A class of one's own with more settings, around an encoder that knows of the plain ones."""

    class MoreConfig(BertConfig):
        more = 1

    class Around(PreTrainedModel):
        config_class = MoreConfig

        def __init__(self, config):
            super().__init__(config)
            self.encoder = BertModel(BertConfig(**SIZE))

        def forward(self, **inputs):
            return self.encoder(**inputs)

    model = Around(MoreConfig(**SIZE)).train()
    handle = guide(model, "next:1", weight=1.0)
    model(input_ids=torch.arange(5, 15)[None])
    assert handle.loss() > 0
