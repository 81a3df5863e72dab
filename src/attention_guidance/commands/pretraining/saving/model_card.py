"""The model card that is saved with a trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attention_guidance.commands.objectives import is_own

_FILLS_MASKS = ("mlm", "whole-word", "span")
_TAGS = dict.fromkeys((*_FILLS_MASKS, "mlm+nsp", "mlm+sop"), ("masked-lm",))
_USE = {
    "fill-mask": """from transformers import pipeline

pipeline("fill-mask", model="path/to/this/folder")("...")""",
    "features": """from transformers import AutoModel

AutoModel.from_pretrained("path/to/this/folder")""",
}


def model_card(summary: Mapping[str, Any]) -> str:
    """Create a model card for the Hugging Face hub from the results of a run."""
    model, config = summary["model"], summary["config"]
    guided = _guidance(config, summary["guidance"]) if config["heads"] else "| guided heads | none |"
    # The name on the hub, or the end of a path, which means nothing on another machine.
    start = "/".join(Path(config["init_from"]).parts[-2:]) if config["init_from"] else None
    initialized = "from random weights" if start is None else f"from {start}"
    plain = model["type"] != "attention-only"
    loader = "plain transformers" if plain else "transformers after `import attention_guidance.models`"
    name, text = config["objective"], model["vocabulary"] is not None
    objective = "a custom objective" if is_own(name) else f"the objective `{name}`"
    tags = [*_TAGS.get(name, ()), "attention-guidance"]
    quality = f"validation loss | {_nats(summary)}"
    if summary["final_accuracy"] is not None:
        quality += f" |\n| {summary['predicts']} right | {summary['final_accuracy']:.1%}"
    return f"""---
library_name: transformers
{"pipeline_tag: fill-mask" if name in _FILLS_MASKS else "pipeline_tag: feature-extraction"}
tags: [{", ".join(tags)}]
---
# A {model["layers"]}-layer encoder trained on {summary["corpus"]}

{model["type"]}, {model["parameters"]:,} parameters: {model["layers"]} layers of {model["hidden"]} with {model["heads"]}
heads{f", vocabulary of {model['vocabulary']:,}" if text else ""}. Pre-trained {initialized} with {objective} by
attention-guidance (arXiv:2010.02399); loads with {loader}.

| | |
|---|---|
| trained on | {summary["corpus"]}: {summary["data"]["train_tokens"]:,} {"tokens" if text else "positions"} |
| steps | {summary["steps"]:,} of {summary["tokens_per_step"]:,} {"tokens" if text else "positions"} |
{guided}
| {quality} |
| seed, precision | {config["seed"]}, {summary["precision"]} |

```python
{_USE["fill-mask" if name in _FILLS_MASKS else "features"]}
```

The folder of the run has all settings (`run.yaml`) and all results, with the validation curve (`results.json`).
{_limitations(start)}
"""


def _guidance(config: Mapping[str, Any], heads: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the table: the heads of each pattern, and how they were guided."""
    counts = Counter(head["pattern"] for head in heads)
    # A bar would end the table cell.
    spec, by_pattern = (text.replace("|", "\\|") for text in (config["heads"], _listed(counts)))
    schedule = config["schedule"]
    if schedule != "constant":
        begins = "" if schedule == "linear" else f"from {_moment(config['hold'])} "
        schedule += f" ({begins}to 0 at {_moment(config['end'])})"
    return (
        f"| guided heads, in every layer unless stated | `{spec}` |\n"
        f"| guided heads by pattern | {by_pattern} |\n"
        f"| guidance | {_weight(config)}, {schedule}; {config['loss']}, {config['normalization']} |"
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _moment(amount: int | float) -> str:
    """When a schedule begins to fall or ends: a step, or a share of the run."""
    return f"step {amount:,}" if isinstance(amount, int) else f"{amount:.0%} of the run"


def _weight(config: Mapping[str, Any]) -> str:
    relative = config.get("relative_weight")
    return f"weight {config['weight']:g}" if relative is None else f"relative weight {relative:g}"


def _limitations(start: str | None) -> str:
    if start is None:
        return "The model was trained on this data only, and has its gaps and biases."
    return (
        f"The model was trained on this data and, before, on that of {start} (see its model card), and has their gaps "
        "and biases."
    )


def _nats(summary: Mapping[str, Any]) -> str:
    if not summary["gives_perplexity"]:
        return f"{summary['final_loss']:.3f}"
    return f"{summary['final_loss']:.3f} nats (perplexity {summary['final_perplexity']:.1f})"
