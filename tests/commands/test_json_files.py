"""JSON that is read back is of its type, or one line names the file and the place in it."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal, NotRequired, TypedDict, get_args, get_type_hints

import pytest

from attention_guidance.commands.reading.json_files import parse_json, read_json
from attention_guidance.commands.report import schemas
from attention_guidance.commands.setting import NOT_NEGATIVE
from attention_guidance.commands.studies.models import Subject, results_of
from attention_guidance.commands.studies.probe import TASKS
from attention_guidance.commands.text import folders
from attention_guidance.errors import CorpusError, RunError


class Item(TypedDict):
    name: str
    n: Annotated[int, NOT_NEGATIVE]
    share: NotRequired[float | None]


class Content(TypedDict):
    kind: Literal["a", "b"]
    items: list[Item]
    counts: dict[str, int]
    either: NotRequired[str | list[int]]


GOOD: dict[str, Any] = {"kind": "a", "items": [{"name": "x", "n": 1, "share": 0.5, "more": []}], "counts": {"a b": 2}}


def refusal(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(RunError) as caught:
        read_json(path, Content)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ").partition(";")[0]


def test_content_of_its_type(tmp_path):
    path = tmp_path / "a.json"
    for more in ({}, {"either": "text"}, {"either": [1, 2]}, {"unknown": None}):
        path.write_text(json.dumps(GOOD | more))
        assert read_json(path, Content) == GOOD | more
    path.write_text(json.dumps(GOOD).replace("0.5", "NaN"))
    assert read_json(path, Content)["items"][0]["share"] is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "c"}, "kind must be 'a' or 'b'"),
        ({"items": {}}, "items must be a list"),
        ({"items": [None]}, "items[0] must be an object"),
        ({"items": [{"name": "x"}]}, "items[0] must have n"),
        ({"items": [{"name": 1, "n": 1}]}, "items[0].name must be text"),
        ({"items": [{"name": "x", "n": True}]}, "items[0].n must be a whole number"),
        ({"items": [{"name": "x", "n": 1.5}]}, "items[0].n must be a whole number"),
        ({"items": [{"name": "x", "n": -1}]}, "items[0].n must be 0 or more"),
        ({"items": [{"name": "x", "n": 10**30}]}, "items[0].n must be a whole number"),
        ({"items": [{"name": "x", "n": 1, "share": "y"}]}, "items[0].share must be a number"),
        ({"counts": {"x": None}}, "counts.x must be a whole number"),
        ({"counts": {"y" * 99: None}}, f"counts.{'y' * 40}... must be a whole number"),
        ({"either": [1, "x"]}, "either[1] must be a whole number"),
    ],
)
def test_content_of_another_type(tmp_path, change, says):
    assert refusal(tmp_path / "a.json", GOOD | change) == says


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1]", "the content must be an object"),
        ("", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"a": ' * 100_000, "not JSON (nested too deeply)"),
        ("[" * 100_000 + "]" * 100_000, "not JSON (nested too deeply)"),
        ("9" * 5000, "not JSON (Exceeds the limit (4300 digits) for integer string conversion"),
        ("9" * 4000, "the content must be an object"),
    ],
)
def test_what_is_no_json(tmp_path, content, says):
    assert refusal(tmp_path / "a.json", content).startswith(says)


def test_a_number_beyond_floats_is_no_number(tmp_path):
    text = json.dumps(GOOD).replace("0.5", "1e999")
    assert refusal(tmp_path / "a.json", text) == "items[0].share must be a number"
    assert math.isinf(parse_json("1e999", "a", "b"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RunError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json", Any)
    (tmp_path / "a.json").write_bytes(b"\xff")
    with pytest.raises(RunError, match=r"a\.json: not UTF-8"):
        read_json(tmp_path / "a.json", Any)
    with pytest.raises(CorpusError, match=r"a:1: not JSON \(.*\); expected x"):
        parse_json("{", "a:1", "expected x", CorpusError)


def test_tasks_of_results_are_those_of_probe():
    assert get_args(get_type_hints(schemas.ProbeContent)["task"]) == tuple(TASKS)
    assert get_args(get_type_hints(schemas.SkillContent)["task"]) == (*TASKS, "minimal-pairs")


@pytest.mark.parametrize("content", ["[1]", "{", '{"log_history": [{"eval_loss": 1}]}', "[" * 100_000])
def test_the_loss_of_a_checkpoint_with_a_damaged_log_is_unknown(tmp_path, caplog, content):
    folders.warn_once.cache_clear()
    checkpoint = tmp_path / "checkpoint-10"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text(content)
    subject = Subject("x", str(checkpoint), 10, tmp_path)
    assert [subject.loss(), subject.loss()] == [None, None]
    assert [message.startswith(f"{checkpoint}/trainer_state.json: ") for message in caplog.messages] == [True]


@pytest.mark.parametrize("content", ['{"final_loss": "x"}', '{"curve": [{"step": 1}]}', "[]", "[" * 100_000])
def test_damaged_results_of_a_run(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunError, match=r"results\.json: "):
        results_of(tmp_path)
