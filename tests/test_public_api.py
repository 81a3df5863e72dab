"""The public surface, pinned: a name comes or goes only together with this list."""

import inspect

import attention_guidance
from attention_guidance import analysis


def test_public_names():
    assert sorted(attention_guidance.__all__) == [
        "Guidance",
        "GuidanceError",
        "GuidedHead",
        "HeadGuidance",
        "HeadMatching",
        "Pattern",
        "RelativeWeight",
        "Schedule",
        "Sequences",
        "Targets",
        "__version__",
        "get_guidance",
        "get_pattern",
        "guide",
        "match_heads",
    ]
    for name in attention_guidance.__all__:
        assert getattr(attention_guidance, name) is not None


def test_public_members_of_the_handle():
    members = {name for name in vars(attention_guidance.Guidance) if not name.startswith("_")}
    assert members == {
        "remove", "loss", "current_weight", "step", "callback", "heads", "per_head", "measure",
        "explain_backend", "rows_per_head", "weight", "schedule", "total_steps", "steps_done",
    }  # fmt: skip


def test_arguments_of_guide():
    assert list(inspect.signature(attention_guidance.guide).parameters) == [
        "model", "heads", "weight", "loss", "normalization", "backend", "schedule", "total_steps", "tokenizer",
        "token_classes", "patterns", "within", "attention",
    ]  # fmt: skip


def test_arguments_of_match_heads():
    assert list(inspect.signature(attention_guidance.match_heads).parameters) == [
        "model", "heads", "batches", "across_layers", "loss", "tokenizer", "token_classes", "patterns",
    ]  # fmt: skip


def test_names_of_analysis():
    assert sorted(analysis.__all__) == [
        "Ablation", "Census", "Estimate", "Look", "ablate", "attention_map", "attention_maps", "head_divergence",
        "head_positions", "look", "observing", "take_census", "without_heads",
    ]  # fmt: skip
    for name in analysis.__all__:
        assert inspect.getdoc(getattr(analysis, name)), name


def test_arguments_of_look():
    assert list(inspect.signature(analysis.look).parameters) == [
        "model", "tokenizer", "text", "pair", "heads", "words", "hide_special",
    ]  # fmt: skip
    members = {name for name in dir(analysis.Look) if not name.startswith("_")}
    assert members | set(analysis.Look.__annotations__) == {
        "title", "tokens", "sentence_T", "maps_LHTT", "heads", "html", "svg", "png", "save",
    }  # fmt: skip


def test_every_public_name_is_documented():
    for module in (attention_guidance, analysis):
        for name in module.__all__:
            thing = getattr(module, name)
            if not isinstance(thing, str):
                assert inspect.getdoc(thing), name
