import pytest

from attention_guidance import Schedule
from attention_guidance.errors import ConfigError


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant"), {0: 1, 50: 1, 100: 1}),
        (Schedule("linear"), {0: 1, 25: 0.75, 100: 0, 120: 0}),
        (Schedule("linear", end=50), {25: 0.5, 50: 0, 100: 0}),
        (Schedule("hold-then-linear", hold=0.2), {0: 1, 20: 1, 60: 0.5, 100: 0}),
        (Schedule("hold-then-linear", hold=10, end=0.5), {10: 1, 30: 0.5, 50: 0}),
        (Schedule("cosine", hold=0.0), {0: 1, 50: 0.5, 100: 0}),
        (Schedule("hold-then-linear", hold=0.5, end=0.5), {49: 1, 50: 0}),
    ],
)
def test_factor_by_hand(schedule, expected):
    for step, factor in expected.items():
        assert schedule.factor(step, 100) == pytest.approx(factor)


def test_steps_need_no_total():
    schedule = Schedule("hold-then-linear", hold=20_000, end=100_000)
    assert not schedule.needs_total
    assert schedule.factor(60_000) == pytest.approx(0.5)


def test_a_share_needs_the_total():
    assert Schedule("linear").needs_total
    with pytest.raises(ConfigError, match="the length of the run is unknown"):
        Schedule("linear").factor(3)


@pytest.mark.parametrize("wrong", [{"shape": "step"}, {"hold": -1}, {"end": 1.5}])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        Schedule(**({"shape": "cosine"} | wrong))
