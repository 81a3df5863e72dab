"""The settings that are chosen for a text."""

from __future__ import annotations

import pytest

from attention_guidance import RelativeWeight
from attention_guidance.commands.pretraining.settings.config import make_config
from attention_guidance.commands.recipe import rules
from attention_guidance.commands.recipe.clean import TextFacts
from attention_guidance.commands.recipe.rules import choose


def chosen(n_bytes):
    facts = TextFacts(10, 10, n_bytes, 0, 0, 0, 0, {}, {})
    return {choice.name: choice.value for choice in choose(facts)}


@pytest.mark.parametrize(
    ("n_bytes", "preset", "steps"),
    [
        (100_000, "mini", 1500),  # 244 steps would be 40 passes
        (1_000_000, "mini", 2400),
        (3_000_000, "mini", 6000),
        (60_000_000, "small", 6000),
    ],
)
def test_size_and_steps_by_the_size_of_the_text(n_bytes, preset, steps):
    found = chosen(n_bytes)
    assert (found["preset"], found["max_steps"]) == (preset, steps)


def test_steps_are_those_of_the_size_of_model_that_is_asked_for():
    facts = TextFacts(10, 10, 1_000_000, 0, 0, 0, 0, {}, {})
    steps = {choice.name: choice for choice in choose(facts, "tiny")}["max_steps"]
    assert (steps.value, "about 25," in steps.why) == (6000, True)


def test_steps_are_forty_passes():
    # 4 bytes a token, 128 x 32 tokens a step.
    assert chosen(1_000_000)["max_steps"] == round(40 * 1_000_000 / 4 / 4096, -2)


def test_choices_are_settings_of_a_run_and_say_why():
    facts = TextFacts(10, 10, 2_000_000, 0, 0, 0, 0, {}, {})
    choices = choose(facts)
    config = make_config({choice.name: choice.value for choice in choices})
    assert config.heads
    assert all(choice.why for choice in choices)
    assert "40 epochs" in next(c.why for c in choices if c.name == "max_steps")


@pytest.mark.parametrize(("width", "rate"), [(256, None), (512, 1e-4)])
def test_a_start_model_decides_its_size_and_wide_ones_learn_slowly(width, rate):
    found = {c.name: c.value for c in choose(TextFacts(10, 10, 1_000_000, 0, 0, 0, 0, {}, {}), start_width=width)}
    assert (found["new_tokenizer"], found["match_heads"], found["max_steps"]) == (True, True, 2400)
    assert found.get("learning_rate") == rate
    assert "preset" not in found


def test_a_relative_weight_replaces_the_weight():
    facts = TextFacts(10, 10, 1_000_000, 0, 0, 0, 0, {}, {})
    found = {choice.name: choice.value for choice in rules.chosen(facts, {"relative_weight": 0.01})}
    assert make_config(found).guidance_weight == RelativeWeight(0.01)
