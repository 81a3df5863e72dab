"""The benchmarks of benchmarks/downstream: whole at tiny sizes; the pages say what is kept."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from started import benchmark

ROOT = Path(__file__).parents[2]
WORDS = ["".join(random.Random(n).choices("abcdefgh", k=4)) for n in range(60)]


def run(name, *arguments):
    return benchmark(f"downstream.{name}", *arguments)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder like ../shared/data with two texts, entities in one of them, texts with labels and minimal pairs."""
    chance, folder = random.Random(0), tmp_path_factory.mktemp("data")
    for name in ("swahili/ner", "english", "sst2", "blimp"):
        (folder / name).mkdir(parents=True)
    for split, n in (("train", 1200), ("valid", 60)):
        lines = [" ".join(chance.choices(WORDS, k=12)) for _ in range(n)]
        (folder / "swahili" / f"{split}.txt").write_text("\n".join(lines))
    (folder / "english" / "train.txt").write_text((folder / "swahili" / "train.txt").read_text())
    for split in ("train", "dev", "test"):
        rows = [f"{' '.join(chance.choices(WORDS, k=6))}\t{n % 2}" for n in range(12)]
        (folder / "sst2" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    pairs = [{f"sentence_{kind}": " ".join(chance.choices(WORDS, k=4)) for kind in ("good", "bad")} for _ in range(9)]
    (folder / "blimp" / "some.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    for split, n in (("train", 40), ("dev", 16), ("test", 16)):
        sentences = ["\n".join([f"{chance.choice(WORDS)} O", f"X{n % 3} B-PER"]) for n in range(n)]
        (folder / "swahili" / "ner" / f"{split}.txt").write_text("\n\n".join(sentences))
    return folder


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """What the long study finds, at 20 steps."""
    work = tmp_path_factory.mktemp("work")
    small = ["--preset", "tiny", "--steps", "20", "--seeds", "2", "--texts", "swahili"]
    done = run("tasks", "long", *small, "--data", data, "--runs", work, "--results", work / "kept.jsonl")
    assert done.returncode == 0, done.stderr
    return work


def test_the_study_compares_three_models(found):
    (record,) = map(json.loads, (found / "kept.jsonl").read_text().splitlines())
    runs = {path.name: json.loads((path / "results.json").read_text()) for path in found.glob("swahili-*-20-*")}
    unguided = {name: result["final_loss"] for name, result in runs.items() if "unguided" in name}
    assert len(unguided) == 3  # learning rates
    best = min(unguided, key=unguided.get)
    assert record["pretraining"]["unguided"]["learning_rate"] == float(best.rpartition("20-")[2])
    assert record["pretraining"]["unguided"]["heads"] == ""
    assert record["pretraining"]["guided"]["learning_rate"] == 1e-3
    curve = next(result["curve"] for name, result in runs.items() if "unguided" not in name)
    reached = [point["step"] for point in curve if point["step"] and point["loss"] <= unguided[best]]
    assert record["overtaking_step"] == (reached[0] if reached else 20)
    assert record["models"]["guided"]["seeds"] == 2
    gap = record["differences"]["guided"]
    assert gap["value"] == pytest.approx(record["models"]["guided"]["mean"] - record["models"]["unguided"]["mean"])
    # None of the 16 test sentences stands in the text.
    assert record["unseen"]["sentences"] == 16
    unseen = record["unseen"]["differences"]["guided"]
    assert unseen == {name: gap[name] for name in unseen}


def test_what_the_study_found_is_a_table(found):
    shown = run("tasks", "--show", "--results", found / "kept.jsonl").stdout
    (record,) = map(json.loads, (found / "kept.jsonl").read_text().splitlines())
    assert "20 steps, the unguided model's learning rate chosen first" in shown
    assert f"| Swahili entities | entity F1 | {100 * record['baseline']['test']['f1']:.1f} |" in shown
    assert f"{100 * record['differences']['guided']['value']:+.1f} (" in shown


def test_the_third_model_can_be_left_out(found, data, tmp_path):
    small = ["--preset", "tiny", "--steps", "20", "--seeds", "2", "--texts", "swahili", "--without-overtaking"]
    kept = tmp_path / "kept.jsonl"
    done = run("tasks", "long", *small, "--data", data, "--runs", found, "--results", kept)
    assert done.returncode == 0, done.stderr
    (without,), (whole,) = (map(json.loads, path.read_text().splitlines()) for path in (kept, found / "kept.jsonl"))
    assert [*without["models"]] == ["unguided", "guided"]
    assert [*without["differences"]] == ["guided"]
    assert without["differences"]["guided"] == whole["differences"]["guided"]
    assert f"| – | {without['overtaking_step']} |" in done.stdout


def test_settings_of_the_recipe_are_changed_one_at_a_time(data, tmp_path):
    small = ["--preset", "tiny", "--steps", "12", "--seeds", "2", "--only", "masking", "steps", "--megabytes", "0.04"]
    kept = tmp_path / "kept.jsonl"
    done = run("recipe_rules", *small, "--data", data, "--runs", tmp_path, "--results", kept)
    assert done.returncode == 0, done.stderr
    masking, steps = map(json.loads, kept.read_text().splitlines())
    assert {value: facts["masking_rate"] for value, facts in masking["tried"].items()} == {
        "default": 0.15, "30 %": 0.3, "40 %": 0.4,
    }  # fmt: skip
    assert [facts["max_steps"] for facts in steps["tried"].values()] == [12, 4, 24]
    assert masking["models"]["default"] == steps["models"]["default"]
    gap = masking["differences"]["30 %"]
    means = {value: model["mean"] for value, model in masking["models"].items()}
    assert gap["value"] == pytest.approx(means["30 %"] - means["default"])
    assert f"| Swahili, 0.04 MB | masking | 30 % | {100 * means['30 %']:.1f} ±" in done.stdout


def test_the_recipe_of_a_small_text_is_held_against_the_larger_model(data, tmp_path):
    small = ["--preset", "tiny", "--steps", "16", "--seeds", "2", "--only", "model", "--sentences", "24"]
    kept = tmp_path / "kept.jsonl"
    done = run("recipe_rules", *small, "--data", data, "--runs", tmp_path, "--results", kept)
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, kept.read_text().splitlines())
    facts = record["tried"]
    assert [(f["preset"], f["max_steps"], f["tokens_per_step"]) for f in facts.values()] == [
        ("tiny", 16, 1024), ("mini", 4, 4096), ("mini", 16, 4096),
    ]  # fmt: skip
    run_of_default = next(path for path in tmp_path.glob("*-ner/*/finetune.json") if "default" in str(path))
    assert json.loads(run_of_default.read_text())["data"]["train"]["examples"] == record["sentences"] == 24
    assert "labelled sentences | model | mini |" in done.stdout


def test_settings_of_another_run_are_not_taken(found, data):
    """What is kept under a name is of the settings it is asked for."""
    small = ["--steps", "20", "--seeds", "2", "--texts", "swahili", "--preset", "mini", "--pretrain-only"]
    done = run("tasks", "long", *small, "--data", data, "--runs", found)
    assert done.returncode == 2
    assert "holds a run with preset='tiny', not 'mini'" in done.stderr


def test_test_sentences_in_the_text_are_counted(data, tmp_path):
    text, test = tmp_path / "data" / "hausa", tmp_path / "data" / "hausa" / "ner"
    test.mkdir(parents=True)
    (text / "train.txt").write_text("one Two, three four five!\nmore\n")
    sentences = ("one two three four five", "one two three four six")
    (test / "test.txt").write_text(
        "\n\n".join("\n".join(f"{word} O" for word in sentence.split()) for sentence in sentences)
    )
    done = run("tasks", "--overlap", "--texts", "hausa", "english", "--data", tmp_path / "data",
               "--results", tmp_path / "kept.jsonl")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Test sentences that occur in the text, without labels: Hausa 1 of 2." in done.stdout


@pytest.mark.parametrize("name", ["tasks", "finetuning", "recipe_rules"])
def test_nothing_kept(tmp_path, name):
    assert run(name, "--show", "--results", tmp_path / "none.jsonl").stdout == "nothing is kept yet\n"


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("tasks", "docs/low-resource.md"),
        ("finetuning", "docs/finetuning.md"),
        ("recipe_rules", "docs/low-resource.md"),
    ],
)
def test_pages_say_what_is_kept(name, page):
    shown = run(name, "--show")
    assert shown.returncode == 0, shown.stderr
    text = (ROOT / page).read_text(encoding="utf-8")
    for line in filter(None, shown.stdout.splitlines()):
        assert line == "nothing is kept yet" or line in text, line


def test_missing_data_are_named(tmp_path):
    for command in (["tasks", "short"], ["finetuning"], ["recipe_rules"]):
        done = run(*command, "--data", tmp_path / "none")
        assert done.returncode == 2
        assert "are not there" in done.stderr


def test_low_resource_combines_each_encoder_with_the_crf(data, tmp_path):
    kept = tmp_path / "kept.jsonl"
    small = ["swahili", "--seeds", "1", "--steps", "4", "--finetune-seeds", "2", "--learning-rates", "1e-3"]
    small += ["--jobs", "2", "--with", "warmup_share=0.5"]
    where = ["--data", data, "--runs", tmp_path / "runs", "--results", kept]
    done = run("low_resource", *small, *where)
    assert done.returncode == 0, done.stderr
    (record,) = map(json.loads, kept.read_text().splitlines())
    assert (record["language"], record["seed"], record["steps"]) == ("swahili", 1, 4)
    over = record["combined_over_baseline"]["guided"]
    assert over["first"] == pytest.approx(record["combined"][1]["mean"])
    assert over["second"] == pytest.approx(record["baseline"]["test"]["f1"])
    shown = run("low_resource", "--show", "--results", kept).stdout.splitlines()[-1]
    cells = [cell.strip() for cell in shown.strip("|").split("|")]
    means = [100 * side["mean"] for name in ("models", "combined") for side in record[name]]
    runs = {arm: tmp_path / "runs" / f"swahili-warmup_share=0.5-{arm}-4-1" for arm in ("unguided", "guided")}
    found = {arm: json.loads((run / "results.json").read_text()) for arm, run in runs.items()}
    assert {arm: of_arm["config"]["warmup_share"] for arm, of_arm in found.items()} == dict.fromkeys(runs, 0.5)
    assert [bool(of_arm["config"]["heads"]) for of_arm in found.values()] == [False, True]
    assert cells[:2] == ["Swahili, warmup_share=0.5", "4, 1"]
    assert [*map(float, cells[2:4])] == pytest.approx([found[arm]["final_loss"] for arm in runs], abs=0.005)
    assert cells[4] == "2"
    assert [*map(float, cells[5:10])] == pytest.approx([100 * record["baseline"]["test"]["f1"], *means], abs=0.05)
    assert cells[-2:] == ["92.2", "92.3"]
    assert run("low_resource", "nowhere", *where).returncode == 2


def test_minimal_pairs_scores_both_encoders(data, tmp_path):
    kept = tmp_path / "kept.jsonl"
    where = ["--data", data, "--runs", tmp_path / "runs", "--results", kept]
    done = run("minimal_pairs", "--steps", "4", *where)
    assert done.returncode == 0, done.stderr
    records = [*map(json.loads, kept.read_text().splitlines())]
    assert [record["arm"] for record in records] == ["unguided", "guided"]
    for record, row in zip(records, reversed(done.stdout.splitlines()[-2:]), strict=True):
        folder = tmp_path / "runs" / f"english-{record['arm']}-4-1-blimp"
        (snapshot,) = json.loads((folder / "minimal_pairs.json").read_text())["snapshots"]
        assert record["accuracy"] == snapshot["accuracy"]
        assert f"| {record['arm']} | 4 x 4,096 tokens, 1 | {record['loss']:.2f} |" in row
        assert f"| {100 * snapshot['accuracy']['value']:.1f} (" in row
    (data / "blimp").rename(tmp_path / "blimp")
    try:
        assert run("minimal_pairs", *where).returncode == 2
    finally:
        (tmp_path / "blimp").rename(data / "blimp")
