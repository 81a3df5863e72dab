"""Sources of splits: files, a folder, GLUE on the hub, or held out of training."""

from __future__ import annotations

import pytest

from attention_guidance.commands.finetuning.examples.data import Example
from attention_guidance.commands.finetuning.examples.reading import read_examples
from attention_guidance.commands.finetuning.examples.splits import find_files, hold_out
from attention_guidance.commands.finetuning.examples.tasks import get_task
from attention_guidance.errors import ConfigError, CorpusError


def examples(*texts):
    return [Example((text,), 0, f"f:{n}") for n, text in enumerate(texts)]


def test_a_tenth_is_held_out_and_the_rest_stays():
    given = examples(*map(str, range(200)))
    stay, out = hold_out(given)
    assert len(out) == 20
    assert sorted((*stay, *out), key=lambda e: int(e.texts[0])) == given
    assert (stay, out) == hold_out(given)
    assert out != hold_out(given, seed=2)[1]
    # Drawn from the whole file, not its end.
    assert min(int(e.texts[0]) for e in out) < 50 < 150 < max(int(e.texts[0]) for e in out)


def test_equal_texts_are_on_one_side():
    stay, out = hold_out(examples(*"abcdefghij" * 5))
    assert {e.texts for e in stay}.isdisjoint(e.texts for e in out)
    assert len(out) == 5


def test_a_label_is_not_held_out_whole():
    for seed in range(20):
        given = [*examples(*map(str, range(50))), Example(("rare",), 1, "f:51"), Example(("rare",), 0, "f:52")]
        stay, out = hold_out(given, seed=seed)
        assert {e.label for e in stay} == {0, 1}
        assert out
        words = [Example((str(n),), (0, 1 + n % 2 if n > 47 else 0), f"f:{n}") for n in range(50)]
        assert {label for e in hold_out(words, seed=seed)[0] for label in e.label} == {0, 1, 2}
        # Several labels of a text: 1 for those that are on.
        several = [Example((str(n),), (1.0, float(n == 49)), f"f:{n}") for n in range(50)]
        assert any(e.label[1] for e in hold_out(several, seed=seed)[0])


def test_a_rare_class_is_held_out_too():
    """A random 6 of 61 texts would have none of the 3 rare labels."""
    given = [Example((str(n),), int(n < 3), f"f:{n}") for n in range(61)]
    for seed in range(20):
        stay, out = hold_out(given, seed=seed)
        assert [sum(e.label for e in part) for part in (stay, out)] == [2, 1]
        assert len(out) == 6


def test_each_label_is_held_out_by_its_share():
    given = [Example((str(n),), n % 10 // 7, f"f:{n}") for n in range(400)]
    assert sum(e.label for e in hold_out(given)[1]) == 12
    several = [Example((str(n),), (float(n % 4 == 0), float(n % 20 == 0), float(n == 7)), "") for n in range(400)]
    counts = [sum(e.label[k] for e in hold_out(several)[1]) for k in range(3)]
    assert counts[0] >= 10
    assert counts[1:] == [2, 0]
    kinds = [Example((str(n),), (0, 1 + 2 * (n % 30 == 0)), "") for n in range(90)]
    assert sum(3 in e.label for e in hold_out(kinds)[1]) == 1


def test_numbers_are_held_out_from_all_over_their_range():
    given = [Example((str(n),), float(n * n), "") for n in range(61)]
    for seed in range(20):
        out = hold_out(given, seed=seed)[1]
        assert sorted(int(e.texts[0]) // 10 - (e.texts[0] == "60") for e in out) == pytest.approx(range(6), abs=1)
        assert len(out) == 6


def test_more_than_a_tenth_is_held_out_where_each_label_needs_one():
    given = [Example((str(n),), n % 4, "") for n in range(20)]
    out = hold_out(given)[1]
    assert sorted(e.label for e in out) == [0, 1, 2, 3]
    # One of each label would be half of the texts, which is too many.
    assert len(hold_out([Example((str(n),), n % 100, "") for n in range(200)])[1]) == 20


def test_weak_splits_are_noted(tmp_path):
    def notes(task, header, **splits):
        files = {}
        for split, rows in splits.items():
            files[split] = tmp_path / f"{split}.tsv"
            files[split].write_text("\n".join([header, *(f"{split} {n}\t{row}" for n, row in enumerate(rows)), ""]))
        return read_examples(get_task(task), files).notes

    found = notes("classify", "text\tlabel", train=["x", "y"] * 20, dev=["x"] * 20, test=["y", "x"] * 4)
    assert found == (
        "dev has no example of 1 of the 2 labels: y",
        "test has 8 examples, fewer than 20: its scores are unreliable",
    )
    assert notes("classify", "text\tlabel", train=["x", "y"] * 20, dev=["x", "y"] * 10) == ()
    found = notes("multilabel", "text\tlabels", train=["x|y", "z", ""] * 9, dev=["z", "x"] * 10)
    assert found == ("dev has no example of 1 of the 3 labels: y",)
    found = notes("regress", "text\tscore", train=["1", "2"] * 20, dev=["3"] * 20)
    assert found == ("all targets of dev are 3: correlations are undefined, reported as 0",)
    with pytest.raises(CorpusError, match=r"train\.tsv: every number in column 'score' is 3"):
        notes("regress", "text\tscore", train=["3"] * 20, dev=["1"] * 20)


def test_kinds_of_entities_that_a_split_lacks_are_noted(tmp_path):
    (tmp_path / "train.txt").write_text("a B-PER\nb O\n\nc B-LOC\n")
    (tmp_path / "dev.txt").write_text("d B-PER\ne O\n\n" * 20)
    notes = read_examples(get_task("ner"), {split: tmp_path / f"{split}.txt" for split in ("train", "dev")}).notes
    assert notes[0] == "dev has no example of 1 of the 2 labels: LOC"


def test_both_development_sets_of_mnli(tmp_path):
    for name in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        (tmp_path / name).write_text("")
    found = find_files(get_task("mnli"), {}, tmp_path)
    assert {split: file.name for split, file in found.items()} == {
        "train": "train.tsv", "test": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"mismatched=m\.tsv: only mnli has this split, not rte"):
        find_files(get_task("rte"), {"train": tmp_path / "train.tsv", "mismatched": "m.tsv"})


def test_one_text_cannot_be_split():
    with pytest.raises(ConfigError, match="`dev`"):
        hold_out(examples("a", "a"))
    with pytest.raises(ConfigError, match=r"too few texts of each label \(f:0\).* `dev`"):
        hold_out([Example((text,), n, f"f:{n}") for n, text in enumerate("ab")])


def test_entities_are_needed_to_choose_on(tmp_path):
    sentences = [f"w{n} O\nx O\n" for n in range(60)] + ["Ann B-PER\n"] * 2
    (tmp_path / "train.txt").write_text("\n".join(sentences))
    with pytest.raises(ConfigError, match=r"the 6 sentences of train.txt held out as dev have no entity; give a `dev`"):
        read_examples(get_task("ner"), {"train": tmp_path / "train.txt"})


def test_dev_is_held_out_where_none_is_given(tmp_path):
    rows = "".join(f"text {n}\t{n % 2}\n" for n in range(40))
    (tmp_path / "all.tsv").write_text(f"text\tlabel\n{rows}")
    (tmp_path / "t.tsv").write_text("text\tlabel\nother\t1\n")
    data = read_examples(get_task("cola"), {"train": tmp_path / "all.tsv", "test": tmp_path / "t.tsv"})
    assert list(data.splits) == ["train", "dev", "test"]
    assert [len(of_split) for of_split in data.splits.values()] == [36, 4, 1]
    assert data.files == {"train": "all.tsv", "dev": "all.tsv", "test": "t.tsv"}
    assert data.notes[0] == "4 of 40 examples of all.tsv are held out as dev"


def test_the_files_of_a_folder(tmp_path):
    for name in ("train.tsv", "valid.jsonl", "test.csv", "README.md", "train.py"):
        (tmp_path / name).write_text("")
    found = find_files(get_task("cola"), {"test": tmp_path / "mine.tsv"}, tmp_path)
    assert found == {"train": tmp_path / "train.tsv", "dev": tmp_path / "valid.jsonl", "test": tmp_path / "mine.tsv"}
    # A split that is given may be missing from the folder, or ambiguous there.
    (tmp_path / "train.tsv").rename(tmp_path / "test.tsv")
    found = find_files(get_task("cola"), dict.fromkeys(("train", "test"), tmp_path / "mine.tsv"), tmp_path)
    assert found == {"train": tmp_path / "mine.tsv", "dev": tmp_path / "valid.jsonl", "test": tmp_path / "mine.tsv"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train.tsv", "train.csv"), r"several files for train \(train.csv, train.tsv\)"),
        (("dev.tsv",), "no file called train that ends in"),
        ((), "no file called train that ends in"),
    ],
)
def test_an_ambiguous_folder_is_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=message):
        find_files(get_task("cola"), {}, tmp_path)


def test_a_folder_of_tables_may_hold_texts_too(tmp_path):
    for name in ("train.tsv", "train.txt", "dev.txt", "test.json"):
        (tmp_path / name).write_text("")
    found = find_files(get_task("cola"), {}, tmp_path)
    assert {split: file.name for split, file in found.items()} == {
        "train": "train.tsv", "dev": "dev.txt", "test": "test.json",
    }  # fmt: skip
    (tmp_path / "dev.ndjson").write_text("")
    with pytest.raises(ConfigError, match=r"several files for dev \(dev.ndjson, dev.txt\)"):
        find_files(get_task("cola"), {}, tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        find_files(get_task("ner"), {}, tmp_path / "none")


def test_no_file_at_all():
    with pytest.raises(ConfigError, match="`train` missing"):
        find_files(get_task("ner"), {})


class Hub:
    """A stand-in for huggingface_hub, with GLUE's files."""

    NAMES = ("README.md", *(f"{task}/{split}-00000-of-00001.parquet" for task in ("cola", "mnli_matched", "mnli")
                            for split in ("test", "train", "validation_matched", "validation_mismatched",
                                          "validation")))  # fmt: skip

    def list_repo_files(self, repository, repo_type):
        assert (repository, repo_type) == ("nyu-mll/glue", "dataset")
        return list(self.NAMES)


@pytest.mark.parametrize(("task", "validation"), [("cola", "validation"), ("mnli", "validation_matched")])
def test_glue_comes_from_the_hub_and_is_tested_on_its_dev(monkeypatch, task, validation):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, repo_type: f"/cache/{name}")
    found = find_files(get_task(task), {})
    assert {split: str(file) for split, file in found.items()} == {
        "train": f"/cache/{task}/train-00000-of-00001.parquet",
        "test": f"/cache/{task}/{validation}-00000-of-00001.parquet",
    } | ({"mismatched": "/cache/mnli/validation_mismatched-00000-of-00001.parquet"} if task == "mnli" else {})


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def fail(self, *args, **kwargs):
        raise ConnectionError("no route\nand much more")

    monkeypatch.setattr(Hub, "list_repo_files", fail)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    with pytest.raises(ConfigError, match=r"cannot download the files of cola from the hub \(no route\); give"):
        find_files(get_task("cola"), {})
