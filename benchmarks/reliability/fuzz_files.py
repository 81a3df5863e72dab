"""Valid files that commands read, which `fuzz.py` mutates."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from safetensors.numpy import save as safetensors_bytes

from .fuzz_mutations import Chance, mutated_bytes, mutated_json_bytes

_TEXT = b"First line, naive.\nSecond \xe6\x97\xa5\xe6\x9c\xac line.\n\nA paragraph\nof two lines.\n"
_RECORDS = [{"text": f"A text {n}, with words.", "label": "yn"[n % 2], "n": n} for n in range(6)]


def _table(mark: str) -> bytes:
    rows = [
        ("text", "label", "n"),
        *((str(r["text"]).replace(",", ";"), str(r["label"]), str(r["n"])) for r in _RECORDS),
    ]
    return "".join(mark.join(row) + "\n" for row in rows).encode()


_JSONL = "".join(json.dumps(record) + "\n" for record in _RECORDS).encode()
FILES = {
    ".txt": _TEXT,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".jsonl": _JSONL,
    ".json": json.dumps(_RECORDS).encode(),
}


def mutated_parquet(content: bytes, chance: Chance) -> bytes:
    """Write other columns, or mutate the bytes; of columns, metadata too."""
    if chance.random() < 0.5:
        return mutated_bytes(content, chance)
    import pyarrow as pa

    names = ["text", "label", "n"]
    if chance.random() < 0.5:
        names[chance.randrange(3)] = chance.choice(
            ("", " text", "text.x", "a.b", "[/x]", "\x1b", "text", "x" * 300, "label")
        )
    strings = pa.array([record["text"] for record in _RECORDS])
    odd = [
        strings.dictionary_encode(),
        pa.array([[1], [], None, [2], [3], [4]]),
        pa.array([{"x": 1}] * 6),
        pa.array([2**60] * 6, pa.timestamp("us")),
        pa.array([b"\xff"] * 6),
        pa.array([None] * 6),
        pa.array([2**31 - 1] * 6, pa.date32()),
        pa.array([1.5] * 6),
        pa.array([2**62] * 6, pa.duration("s")),
        pa.array([10**9] * 6, pa.time64("ns")),
    ]
    columns = [strings, pa.array(["y", "n"] * 3), pa.array(range(6))]
    if chance.random() < 0.5:
        columns[chance.randrange(3)] = chance.choice(odd)
    table = pa.Table.from_arrays(columns, names=names)
    if chance.random() < 0.3:
        features = {"label": {"_type": "ClassLabel", "names": ["n", "y"]}}
        stated = json.dumps({"info": {"features": features}}).encode()
        table = table.replace_schema_metadata({"huggingface": mutated_json_bytes(stated, chance)})
    return parquet(table)


def parquet(table: Any = None) -> bytes:
    """A Parquet file in bytes; without a table, one of texts and labels."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_RECORDS) if table is None else table, buffer)
    return buffer.getvalue()


_LABEL = {
    "label": "obj",
    "questions": 40,
    "questions_scored": 20,
    "max": 0.9,
    "mean": 0.4,
    "chance": 0.1,
    "intervals_apart": True,
    "best": {"layer": 1, "head": 0, "direction": "forward", "value": 0.8, "low": 0.7, "high": 0.9},
    "baseline": {"name": "offset:-1", "value": 0.5, "low": 0.4, "high": 0.6},
    "gain": {"value": 0.3, "low": None, "high": None},
}
_PAIRS = {"value": 0.6, "low": 0.5, "high": None, "pairs": 39}
_HEADER = {
    "schema_version": 1,
    "date": "2026-01-01T00:00:00+00:00",
    "versions": {"python": "3.12"},
    "device": "cpu",
    "command": "x",
}
RESULTS: dict[str, Any] = {
    "probe.json": {
        **_HEADER,
        "kind": "probe",
        "model": "run",
        "data": "a/b",
        "task": "dependency",
        "protocol": "words",
        "distractors": False,
        "seed": 1,
        "layers": 2,
        "heads": 2,
        "directions": ["forward", "backward"],
        "max": 0.9,
        "mean": 0.5,
        "accuracy": {"forward": [[0.1, 0.9], [0.5, 0.2]], "backward": [[0.3, 0.4], [0.0, 1.0]]},
        "baselines": {"best": {"name": "offset:-1", "value": 0.5}, "chance": 0.1},
        "labels": [_LABEL | {"label": "all"}, _LABEL],
        "counts": {"texts": 40, "questions": 80, "skipped_texts": {"longer than 32 tokens": 2}},
    },
    "skill.json": {
        **_HEADER,
        "kind": "skill",
        "runs": ["a", "b"],
        "data": "a/b",
        "task": "reflexive",
        "protocol": "words",
        "seed": 1,
        "points": [
            {"run": run, "step": step, "loss": 5 - step / 10, "max": 0.5, "mean": 0.3, "chance": 0.2}
            for run in ("a", "b")
            for step in (10, 20, 30)
        ],
        "correlations": [
            {"run": run, "measure": measure, "n": 6, "spearman": -0.5, "low": None, "high": None}
            for run in (None, "a", "b")
            for measure in ("max", "mean")
        ],
    },
    "minimal_pairs.json": {
        **_HEADER,
        "kind": "minimal_pairs",
        "model": "run step 20",
        "data": "a/b",
        "pairs": 40,
        "snapshots": [
            {"model": f"run step {step}", "step": step, "loss": 4.5, "skipped": 1, "accuracy": _PAIRS}
            | {"fields": [], "phenomena": [_PAIRS | {"name": "x"}], "paradigms": [_PAIRS | {"name": "y"}]}
            for step in (10, 20)
        ],
    },
    "finetune.json": {
        **_HEADER,
        "kind": "finetune",
        "task": "cola",
        "model": "run",
        "scores": {"mcc": {"mean": 0.5, "std": 0.1, "seeds": 5}},
    },
    "trainer_state.json": {
        "global_step": 30,
        "log_history": [
            {"step": 10, "loss": 5.0, "grad_norm": 1.0},
            {"step": 20, "eval_loss": 4.5},
            {"step": 30, "guidance": 0.2},
        ],
    },
    "results.json": {
        **_HEADER,
        "kind": "run",
        "final_loss": 4.5,
        "curve": [{"step": 10, "loss": 5.0}, {"step": 20, "loss": 4.5}],
    },
}

_SENTENCES = ("Ann B-PER met O Zoe B-PER in O New B-LOC York I-LOC", "She O went O home O", "Kim B-PER slept O")


def _columns(mark: str) -> bytes:
    blocks = (
        "\n".join(f"{word}{mark}{tag}" for word, tag in zip(words[::2], words[1::2], strict=True))
        for words in (sentence.split() for sentence in _SENTENCES * 4)
    )
    return ("# id 1\n" + "\n\n".join(blocks) + "\n").encode()


def _trees() -> bytes:
    rows = (
        "# text = du vin",
        "1-2\tdu\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No",
        "1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_",
        "2\tle\tle\tDET\t_\tDefinite=Def\t3\tdet\t_\t_",
        "2.1\tx\t_\t_\t_\t_\t_\t_\t0:root\t_",
        "3\tvin\tvin\tNOUN\t_\t_\t0\troot\t_\t_",
    )
    return ("\n".join(rows) + "\n\n").encode() * 3


def _coreference() -> bytes:
    rows = (
        "#begin document (a/b_0001); part 000",
        "a/b 0 0 Ann NNP (TOP(S(NP*) - - - x (PERSON) (ARG0*) (0)",
        "a/b 0 1 saw VBD (VP* see 01 1 x * (V*) -",
        "a/b 0 2 her PRP$ (NP* - - - x * (ARG1* (1|(0)",
        "a/b 0 3 dog NN *)))) - - - x * *) 1)",
        "",
        "#end document",
    )
    return ("\n".join(rows) + "\n").encode() * 2


def _gap() -> bytes:
    header = ("ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref", "B", "B-offset", "B-coref", "URL")
    row = ("1", "Ann met Zoe; she won.", "she", "13", "Ann", "0", "TRUE", "Zoe", "8", "FALSE", "http://x")
    return ("\t".join(header) + "\n" + ("\t".join(row) + "\n") * 3).encode()


def _rows(*names: str, cells: Any) -> bytes:
    lines = [",".join(names), *(",".join(map(str, cells(n))) for n in range(40))]
    return ("\n".join(lines) + "\n").encode()


# Of words: annotation, labelled tables, predictions, and what is given on the command line; several as a tuple.
WORDS: dict[str, Any] = {
    "tagged": (_columns(" "), _columns("\t")),
    "trees": _trees(),
    "coref": _coreference(),
    "gap": _gap(),
    "reflexives": b"the king hurt himself\t3\t0 1\nshe saw herself\t2\t0\n",
    "pairs": b'{"sentence_good": "He is.", "sentence_bad": "He are.", "UID": "a", "field": "syntax"}\n' * 3,
    "classify-x.csv": _rows("text", "label", cells=lambda n: (f"text {n}", "yn"[n % 2])),
    "pair-x.csv": _rows("sentence1", "sentence2", "label", cells=lambda n: (f"a {n}", f"b {n}", "yn"[n % 2])),
    "multilabel-x.csv": _rows("text", "labels", cells=lambda n: (f"text {n}", ("a|b", "['a']", "b", "")[n % 4])),
    "multilabel-hot.csv": _rows("text", "x", "y", cells=lambda n: (f"text {n}", n % 2, n % 3 // 2)),
    "regress-x.csv": _rows("text", "score", cells=lambda n: (f"text {n}", n / 7)),
    "ner-x.conll": _columns("\t") * 3,
    "predicted.txt": b"Ann B-PER O\nran O O\n\nKim B-PER B-PER\n",
    "predicted.tsv": b"text1\tgold\tpredicted\na b\t1\t0\nc\t0\t0.5\n",
    "heads": (
        b"next:1 previous:0.25 first:1",
        b"0: next:1; 1-2: first@2,3 previous|next@0; 3-: comma:1",
        b"offset:-2@1",
    ),
    "set": (b"optim=adafactor\nmax_grad_norm=0.8\n#comma=, ;", b"lr_scheduler_kwargs={a: [1, {b: 2}]}\nwarmup_steps=3"),
    "flags": (b"max_time=1h30m\nheads=next:1\npreset=tiny", b"hold=0.3\nend=100\nobjective=rtd\nlayers=2\nseed=3"),
    "config.json": (
        b'{"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}',
        b'{"model_type": "roberta", "intermediate_size": 64, "vocab_size": 100, "architectures": ["X"]}',
    ),
    "data.json": (b'{"fingerprint": "abc"}',),
    "clock.json": (b'{"elapsed": 12.5}',),
    "seal.json": (b'{"schema_version": 1, "sha256": {"seal.json": "0"}}', b'{"schema_version": 1, "sha256": {}}'),
    "step-0.json": (
        b'{"step": 0, "share": 0.0, "maps": [{"layer": 0, "head": 1, "pattern": null, "weights": [[1.0, 0.0]]}]}',
    ),
    "fit.json": (b'{"epoch": 2, "dev": [{"f1": 0.5}, {"f1": 0.6}], "seconds": 1.5, "tokens_per_second": 9.0}',),
    "compare.json": (b'{"schema_version": 1, "kind": "compare", "seeds": [{"seed": 1}, {"seed": 2}]}',),
    "downstream.json": (b'{"models": [{"model": "a"}, {"model": "b"}], "task": "classify", "checkpoints": []}',),
    "recipe.json": (b'{"tasks": {"ner": {}}, "runs": {"guided": {}}}',),
    "blocks.json": (b'{"dtype": "uint16", "truncated": 0}',),
    "task.json": (
        b'{"kind": "task", "task": "ner", "labels": ["O", "B-X", "I-X"], "scheme": "BIO", "encoder_weight": 0.5}',
        b'{"kind": "task", "task": "cola", "labels": ["n", "y"], "scheme": null, "encoder_weight": null}',
    ),
    "baseline.json": (b'{"names": [["bias", "word=a"]]}',),
}


def _saved() -> dict[str, dict[str, bytes]]:
    """Files that lie beside each other, by folder: a target mutates one of them."""
    lengths, ids = io.BytesIO(), np.arange(12, dtype=np.uint16)
    np.save(lengths, np.array([4, 4, 3], np.int32))
    crf = safetensors_bytes({"weights": np.ones((2, 3)), "between": np.zeros((3, 3))})
    return {
        "blocks": {"lengths.npy": lengths.getvalue(), "ids": ids.tobytes(), "blocks.json": WORDS["blocks.json"][0]},
        "task": {
            "task.json": WORDS["task.json"][0],
            "baseline.json": WORDS["baseline.json"][0],
            "baseline.safetensors": crf,
        },
    }


SAVED = _saved()
