"""The saved model predicts in transformers' pipeline what was scored, for every kind of tokenizer."""

from __future__ import annotations

import itertools
import random
import warnings

import pytest
import torch
from finetunings import read
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, pipeline

from attention_guidance.commands.tokenization.kinds import train_kind

# Words that begin and continue an entity; each letter occurs in one kind of word, so that small models learn it.
NAMES = {
    "PER": (["Zkz", "Ωg-k", "qz"], ["Xix", "Xi&i"]),
    "LOC": (["Dop", "Jp'd", "¡Új!"], ["Vyv", "Ұy+v"]),
}
FILL = ["sat", "the", "nest", ".", "42%", "\u00a0", "naßt"]
KINDS = {"bpe": 290, "wordpiece": 90, "unigram": 90}
FAST = [
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--learning-rates",
    "5e-3",
    "--seeds",
    "1",
    "--dropout",
    "0",
    "-q",
    "--heads",
    "next:1 previous:1",
    "--weight",
    "1",
]


def sentences(chance, n, parts=False):
    for _ in range(n):
        words, tags = [], []
        while len(words) < 6:
            kind = chance.choice(["PER", "LOC", None, None])
            length = chance.choice([1, 2])
            words += [chance.choice(names) for names in NAMES[kind][:length]] if kind else [chance.choice(FILL)]
            tags += [f"B-{kind}", f"I-{kind}"][:length] if kind else ["O"]
        yield words, [("NAME" if tag != "O" else "WORD") if parts else tag for tag in tags]


@pytest.fixture(scope="module")
def served(tmp_path_factory, cli):
    """Fine-tune a model with a kind of tokenizer; returns its folder."""
    done = {}

    def fine_tuned(kind, parts=False):
        if (kind, parts) in done:
            return done[kind, parts]
        folder = tmp_path_factory.mktemp(f"{kind}-{parts}")
        letters = {letter for begin, inside in NAMES.values() for name in [*begin, *inside] for letter in name}
        texts = [" ".join([*FILL, "Zkz", "Vyv", *sorted(letters), "".join(sorted(letters))])] * 4
        tokenizer = train_kind(kind, texts, KINDS[kind], max_length=64, at_most=True)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
        sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 70}
        torch.manual_seed(0)
        model = BertModel(BertConfig(**sizes)) if kind == "wordpiece" else RobertaModel(RobertaConfig(**sizes))
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        chance, files = random.Random(0), []
        for split, n in (("train", 1800), ("dev", 4), ("test", 40)):
            blocks = ("".join(f"{w}\t{t}\n" for w, t in zip(*s, strict=True)) for s in sentences(chance, n, parts))
            (folder / f"{split}.txt").write_text("\n".join(blocks), encoding="utf-8")
            files += [f"--{split}", folder / f"{split}.txt"]
        assert cli("finetune", folder / "model", "--task", "ner", *files, "-o", folder / "out", "--no-baseline",
                   *FAST) == 0  # fmt: skip
        done[kind, parts] = folder
        return folder

    return fine_tuned


# Words that a tokenizer could take for special tokens, and some that it has no token for.
ODD = ["</s>", "<s>", "[SEP]", "[MASK]", "<mask>", "[PAD]", "x</s>y", "\u2581", "\u0120", "\u00a0"]


@pytest.fixture(scope="module", params=KINDS)
def unsure(request, tmp_path_factory, cli):
    """A barely trained model, in half precision, on unusual words."""
    kind, folder, chance = request.param, tmp_path_factory.mktemp("unsure"), random.Random(1)
    texts = [" ".join([*FILL, *(name for of_kind in NAMES.values() for names in of_kind for name in names)])] * 4
    tokenizer = train_kind(kind, texts, KINDS[kind], max_length=64, at_most=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    sizes |= {"vocab_size": len(tokenizer), "max_position_embeddings": 70, "initializer_range": 0.5}
    torch.manual_seed(0)
    model = BertModel(BertConfig(**sizes)) if kind == "wordpiece" else RobertaModel(RobertaConfig(**sizes))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    files = []
    for split, n in (("train", 8), ("dev", 4), ("test", 400)):
        written = ([(chance.choice([word, word, chance.choice(ODD)]), tag) for word, tag in zip(*s, strict=True)]
                   for s in sentences(chance, n))  # fmt: skip
        blocks = ("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in written)
        (folder / f"{split}.txt").write_text("\n".join(blocks), encoding="utf-8")
        files += [f"--{split}", folder / f"{split}.txt"]
    fast = ["--epochs", "1", "--learning-rates", "1e-3", "--seeds", "1", "-q", "--precision", "bf16", "--no-baseline"]
    assert cli("finetune", folder / "model", "--task", "ner", *files, "-o", folder / "out", *fast) == 0
    return kind, folder


def test_the_first_token_of_a_word_says_what_was_scored_though_little_is_learnt(unsure):
    """Compare sentences where the labels of first tokens are well-formed; elsewhere the best well-formed ones count."""
    kind, folder = unsure
    tokens = pipeline("ner", model=str(folder / "out" / "model"), ignore_labels=[])
    n = n_malformed = 0
    for words, labels in scored(folder):
        found = tokens(" ".join(words))
        said = []
        for word, start in zip(words, word_starts(words), strict=True):
            within = [token["entity"] for token in found if start < token["end"] <= start + len(word)]
            assert within or kind == "wordpiece", (words, word)
            said.append(within[0] if within else "O")
            n += len(within) > 0
        assert well_formed(labels)
        if well_formed(said):
            assert said == labels, words
        n_malformed += not well_formed(said)
    assert n > 2000
    assert n_malformed > 10
    assert 0.02 < read(folder / "out")["scores"]["accuracy"]["mean"] < 0.8


def scored(folder):
    """The sentences of the test file with their predicted labels."""
    texts = (folder / "test.txt").read_text(encoding="utf-8").strip("\n").split("\n\n")
    predictions = (folder / "out" / "predictions" / "test-seed-1.txt").read_text(encoding="utf-8")
    for text, block in zip(texts, predictions.strip("\n").split("\n\n"), strict=True):
        words = [line.split("\t")[0] for line in text.split("\n")]
        yield words, [line.rsplit(" ", 1)[1] for line in block.split("\n")]


def spans(words, labels):
    """Entities of BIO labels as [start, end) in the text, with their type; an I- may begin one."""
    found, at = [], 0
    before = "O"
    for word, label in zip(words, labels, strict=True):
        if label[0] == "I" and before[1:] == label[1:]:
            found[-1] = (found[-1][0], at + len(word), label[2:])
        elif label != "O":
            found.append((at, at + len(word), label[2:]))
        before, at = label if label == "O" else f"I{label[1:]}", at + len(word) + 1
    return found


def well_formed(labels):
    return all(a[1:] == b[1:] and a != "O" for a, b in itertools.pairwise(["O", *labels]) if b[0] == "I")


def word_starts(words):
    return [sum(len(word) + 1 for word in words[:n]) for n in range(len(words))]


@pytest.mark.parametrize(("kind", "parts"), [*((kind, False) for kind in KINDS), ("unigram", True)])
def test_a_pipeline_gives_each_word_the_label_that_was_scored(served, kind, parts):
    folder = served(kind, parts)
    assert read(folder / "out")["scores"]["accuracy"]["mean"] > 0.97
    tokens = pipeline("ner", model=str(folder / "out" / "model"), ignore_labels=[])
    n_alone = n_rest = n_first = n_unseen = 0
    for words, labels in scored(folder):
        text, starts = " ".join(words), word_starts(words)
        of_word = {}
        for token in tokens(text):
            # A token belongs to the word that contains its end, unless it is only white space.
            alone = not text[token["start"] : token["end"]].strip(" ")
            word = max(n for n, start in enumerate(starts) if alone or start < token["end"])
            n_alone += alone
            if not alone:
                of_word.setdefault(word, []).append(token["entity"])
        for word, found in of_word.items():
            assert found[0] == labels[word], (words, word)
            n_first += 1
            n_rest += len(found) - 1
            continued = labels[word] if parts else labels[word].replace("B-", "I-")
            assert set(found[1:]) <= {continued}, (words, word, found)
        n_unseen += len(words) - len(of_word)
        n_lost = sum(labels[n] != "O" for n in set(range(len(words))) - of_word.keys())
        assert n_lost == 0 or parts
    assert n_first > 200
    assert n_rest > 100
    assert (n_alone > 20) == (kind != "wordpiece")
    # BERT's tokenizer drops NBSP: it is outside entities, with a note.
    assert read(folder / "out")["data"]["test"]["words_without_tokens"] == n_unseen
    said = f"{n_unseen} words of test have no token; they are labelled O where a well-formed sequence allows it"
    assert (said in read(folder / "out")["notes"]) == (kind == "wordpiece")


@pytest.mark.parametrize("strategy", ["simple", "first"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_entities_of_a_pipeline_are_those_that_were_scored(served, kind, strategy):
    folder = served(kind)
    entities = pipeline("ner", model=str(folder / "out" / "model"), aggregation_strategy=strategy)
    n = 0
    for words, labels in scored(folder):
        text = " ".join(words)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Tokenizer does not support real words" for all but WordPiece
            found = entities(text)
        assert all(entity["word"].strip() for entity in found)
        # Spaces around an entity may be part of it, as they may be part of a word's first token.
        left = [len(text[: e["end"]]) - len(text[e["start"] : e["end"]].lstrip(" ")) for e in found]
        right = [e["start"] + len(text[e["start"] : e["end"]].rstrip(" ")) for e in found]
        at = [*zip(left, right, [entity["entity_group"] for entity in found], strict=True)]
        assert at == spans(words, labels)
        n += len(found)
    assert n > 80
