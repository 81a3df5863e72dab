"""`--time`: the steps that fit into a time, by a trial whose measurements are made up here."""

from __future__ import annotations

import json

import pytest
from small_runs import one_line

from attention_guidance.commands.recipe import low_resource
from attention_guidance.commands.recipe.budget import Trial, allot, in_words
from attention_guidance.errors import ConfigError

# 1 s a step, 3 s a validation, 20 s for text and model, 40 steps an epoch, 100 s to fine-tune.
TRIAL = Trial(step=1.0, validation=3.0, besides=20.0, epoch_steps=40, fine_tuning=100.0)


def test_pre_training_is_steps_validations_and_what_comes_with_it():
    # A validation every 3 steps, as of any run of 90 steps.
    assert TRIAL.pretraining(90) == 20 + 90 + 30 * 3
    assert TRIAL.pretraining(40) == 20 + 40 + 40 * 3


def test_what_the_rules_want_if_it_fits():
    # 2,000 s, a tenth in reserve: 1,800, less 10 spent and 100 to fine-tune: 1,690 left for 20 + 1,500 + 30 x 3.
    budget = allot("2000s", 1500, "40 epochs", TRIAL, models=1, covers="", spent=10)
    assert (budget["max_steps"], budget["pretraining_seconds"], budget["fine_tuning_seconds"]) == (1500, 1610, 100)
    assert (
        budget["why"] == "40 epochs; fits in 2000s (27m for pre-training, 2m for fine-tuning, measured on this machine)"
    )


@pytest.mark.parametrize(
    ("given", "models", "spent", "steps"),
    [
        # 900 - 10 - 100 = 790 for 20 + 680 + 3 x 30 validations, every 22 steps.
        ("1000s", 1, 10, 680),
        # 1,800 - 10 - 200 for two, 795 each: 20 + 682 + 3 x 31.
        ("2000s", 2, 10, 682),
        # 900 - 500 - 100 = 300 for 20 + 187 + 3 x 31.
        ("1000s", 1, 500, 187),
    ],
)
def test_else_as_many_as_fit(given, models, spent, steps):
    budget = allot(given, 1500, "40 epochs", TRIAL, models=models, covers="", spent=spent)
    found = budget["max_steps"]
    left = 0.9 * float(given[:-1]) - spent - models * 100
    assert models * TRIAL.pretraining(found) <= left
    assert all(models * TRIAL.pretraining(more) > left for more in range(found + 1, 1501))
    assert found == steps
    assert budget["why"].startswith(f"as many as fit in {given}, at 1 s a step (")


def test_the_least_time_is_named_and_is_enough():
    # One epoch: 20 + 40 + 40 x 3 = 180; and 100 to fine-tune, 10 spent: 290 / 0.9 = 322.2 s, 6 minutes.
    with pytest.raises(
        ConfigError, match=r"time='5m' is too short: .* takes 40 steps of 1 s .* fine-tuning 2m; give at least 6m"
    ):
        allot("5m", 1500, "", TRIAL, models=1, covers="", spent=10)
    assert allot("6m", 1500, "", TRIAL, models=1, covers="", spent=10)["max_steps"] >= 40
    # Where the rules want less than an epoch, that is enough.
    assert allot("5m", 30, "", TRIAL, models=1, covers="", spent=10)["max_steps"] == 30


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1s"), (59.5, "60s"), (61, "2m"), (3600, "1h"), (3601, "1h1m"), (7260, "2h1m")]
)
def test_times_are_written_as_they_are_given(seconds, words):
    assert in_words(seconds) == words


@pytest.fixture
def measured(monkeypatch):
    """The trial is made up; gives how often it was asked for."""
    asked = []

    def measure(*given):
        asked.append(given)
        return Trial(step=1.0, validation=0.0, besides=0.0, epoch_steps=4, fine_tuning=0.0)

    monkeypatch.setattr(low_resource, "measure", measure)
    return asked


@pytest.fixture
def recipe(cli, capsys, tmp_path):
    """Run the recipe on a small text; gives exit code, output and errors."""
    words = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ijkl"]
    lines = [" ".join(words[(n * k) % 64] for k in range(1, 9)) + f" {n}." for n in range(900)]
    (tmp_path / "text.txt").write_text("\n".join(lines))

    def run(*more, out="out"):
        capsys.readouterr()
        given = ["recipe", "low-resource", tmp_path / "text.txt", "--preset", "tiny", "-o", tmp_path / out]
        code = cli(*given, *more)
        said = capsys.readouterr()
        return code, " ".join(said.out.split()), said.err

    return run


def test_a_recipe_within_a_time(recipe, measured, tmp_path):
    # 90 s, a tenth in reserve, less the second or so in which the text is read.
    code, said, error = recipe("--time", "90s")
    assert code == 0, error
    content = json.loads((tmp_path / "out" / "recipe.json").read_text())
    steps = content["time"]["max_steps"]
    assert 60 < steps <= 81
    assert content["runs"]["guided"]["steps"] == steps
    (choice,) = (choice for choice in content["choices"] if choice["name"] == "max_steps")
    assert choice == {"name": "max_steps", "value": steps, "why": content["time"]["why"]}
    assert "as many as fit in 90s, at 1 s a step" in " ".join(choice["why"].split())
    assert "measuring a few steps on this machine" in said
    # The schedules end with the run: the rate at the last step is that of a run of so many steps.
    (checkpoint,) = (tmp_path / "out" / "guided" / "checkpoints").glob(f"checkpoint-{steps}")
    logged = [
        e for e in json.loads((checkpoint / "trainer_state.json").read_text())["log_history"] if "learning_rate" in e
    ]
    assert logged[-1]["learning_rate"] < 0.1 * max(entry["learning_rate"] for entry in logged)
    assert len(measured) == 1
    # The same is resumed without measuring again; another time is another recipe.
    code, said, error = recipe("--time", "90s", "--resume")
    assert code == 0, error
    assert len(measured) == 1
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["time"] == content["time"]
    # So is what the time was not chosen for, which would take longer.
    for other in (["--time", "2m"], [], ["--time", "90s", "--compare"], ["--time", "90s", "--seeds", "9"]):
        code, _, error = recipe(*other, "--resume")
        assert code == 2
        assert "another --time, or one for other models, tasks or seeds" in one_line(error)


def test_a_stopped_recipe_has_the_steps_that_it_had(recipe, measured, tmp_path):
    assert recipe("--time", "30s", "-q")[0] == 0
    out = tmp_path / "out"
    for left in ("recipe.json", "recipe.html", "guided/results.json"):
        (out / left).unlink()
    budget = json.loads((out / "time.json").read_text())
    (out / "time.json").write_text(json.dumps(budget | {"step_seconds": 9.0}, indent=2) + "\n")
    code, _, error = recipe("--time", "30s", "-q", "--resume")
    assert code == 0, error
    assert json.loads((out / "recipe.json").read_text())["time"] == budget | {"step_seconds": 9.0}
    (out / "time.json").write_text("{")
    code, _, error = recipe("--time", "30s", "-q", "--resume")
    assert code == 2
    assert "time.json is damaged" in one_line(error)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--time", "2s"], "--time '2s' is too short: passing over the text once takes 4 steps of 1 s"),
        (["--time", "soon"], "--time 'soon' is not a time; give 3h, 90m, 1h30m or 45s"),
        (["--time=-1h"], "--time '-1h' is not a time"),
        (["--time", "0m"], "--time '0m': must be above 0"),
        (["--time", ""], "--time '' is not a time"),
        (
            ["--time", "1h", "--max-steps", "5"],
            "--time '1h' and --max-steps 5 both decide the length; give one of them",
        ),
    ],
)
def test_times_that_are_refused(recipe, measured, tmp_path, more, said):
    code, _, error = recipe(*more)
    assert code == 2
    assert said in one_line(error)
    assert not (tmp_path / "out").exists()


def test_a_trial_is_measured(recipe, tmp_path):
    """Nothing is made up here: a time that nothing fits into names one that would do."""
    (tmp_path / "classes.tsv").write_text(
        "text\tlabel\n" + "".join(f"{word} {n}\t{word}\n" for n in range(30) for word in ("good", "bad"))
    )
    code, _, error = recipe("--time", "1s", "--classify", tmp_path / "classes.tsv", "--seeds", "2")
    assert code == 2
    assert "give at least " in one_line(error)
    assert not (tmp_path / "out").exists()
