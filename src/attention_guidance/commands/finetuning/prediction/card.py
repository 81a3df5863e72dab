"""The model card of a fine-tuned model: its scores, and how to predict with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TAGS = {"tokens": "token-classification"}
_EXAMPLE = {
    "tokens": '[["Juma", "lives", "in", "Moshi", "."]]',
    "one": '[["A text."]]',
    "pair": '[["The first text.", "The second text."]]',
}


def card(found: Mapping[str, Any], kind: str, n_texts: int) -> str:
    """The card, in Markdown.

    Args:
        found: the results, as in `finetune.json`.
        kind: kind of the task.
        n_texts: number of texts per example.
    """
    metric, combined = found["metric"], found["combined"]
    scores = [("this model", found["scores"][metric]["mean"])]
    if found["baseline"] is not None:
        name = f"without pre-training ({found['baseline']['model']})"
        scores.append((name, found["baseline"][found["split"]][metric]))
    if combined is not None:
        scores.append(("both combined", combined["scores"][metric]["mean"]))
    rows = "\n".join(f"| {name} | {score:.4f} |" for name, score in scores)
    n, seed = len(found["seeds"]), found["best_seed"]
    example = _EXAMPLE["tokens" if kind == "tokens" else "pair" if n_texts == 2 else "one"]
    alone = (
        "The predictions combine the encoder with the model without pre-training, which is in this folder too. "
        "`transformers.pipeline` loads the encoder alone."
        if combined is not None
        else "`transformers.pipeline` loads it too."
    )
    wellformed = " A pipeline does not keep entities well-formed." if found["scheme"] else ""
    return f"""\
---
library_name: transformers
pipeline_tag: {_TAGS.get(kind, "text-classification")}
---

# {found["model"]}, fine-tuned for {found["task"]}

| {found["split"]}, mean of {n} fine-tuning{"s" * (n > 1)} (this is seed {seed}) | {metric} |
| --- | --- |
{rows}

```python
from attention_guidance.commands.finetuning.prediction.predictor import Predictor

predictor = Predictor.load("FOLDER")
print(predictor({example}))
```

Or `attention-guidance predict FOLDER texts.txt -o predictions.jsonl`. {alone}{wellformed}
"""
