"""The model card that is saved beside a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def model_card(summary: Mapping[str, Any]) -> str:
    """A model card in the form of the Hugging Face hub, from the results of a run."""
    model, config = summary["model"], summary["config"]
    # A bar would end the cell of the table.
    heads = config["heads"].replace("|", "\\|")
    guided = f"`{heads}` at weight {config['weight']:g}" if config["heads"] else "none"
    # The name on the hub; of a folder only the end, as a card is read elsewhere.
    begun = (
        f"on from {'/'.join(Path(config['init_from']).parts[-2:])}" if config["init_from"] else "from random weights"
    )
    plain = model["type"] != "attention-only"
    loader = "plain transformers" if plain else "transformers after `import attention_guidance.models`"
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [attention-guidance, masked-lm]
---
# A {model["layers"]}-layer encoder trained on {summary["corpus"]}

{model["type"]}, {model["parameters"]:,} parameters: {model["layers"]} layers of {model["hidden"]} with {model["heads"]}
heads, vocabulary of {model["vocabulary"]:,}. Pre-trained {begun} by masked language modelling
({config["objective"]}) with attention-guidance (arXiv:2010.02399); loads with {loader}.

| | |
|---|---|
| training text | {summary["corpus"]}: {summary["data"]["train_tokens"]:,} tokens |
| steps | {summary["steps"]:,} of {summary["tokens_per_step"]:,} tokens |
| guided heads, in every layer unless said | {guided} |
| validation loss | {summary["final_loss"]:.3f} nats (perplexity {summary["final_perplexity"]:.1f}) |
| masked tokens predicted right | {summary["final_accuracy"]:.1%} |
| seed, precision | {config["seed"]}, {summary["precision"]} |

```python
from transformers import pipeline

pipeline("fill-mask", model="path/to/this/folder")("...")
```

Every setting is in `run.yaml` beside this folder; every figure, with the validation curve, in `results.json`.
It has learnt from this text alone: what is missing or wrong there is missing or wrong here.
"""
