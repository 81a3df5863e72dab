"""The command for the whole pipeline: `recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import (
    add_command,
    add_output,
    add_reading,
    given,
    positive,
    seed,
    text_of,
)
from attention_guidance.errors import ConfigError

_RECIPE = """\
From raw text to a model and a report of its quality, with settings chosen for the text.

  attention-guidance recipe low-resource news.txt bible.txt --ner ner/ -o recipes/sw
  attention-guidance recipe low-resource wiki/ --classify topics.tsv -o recipes/topics --compare
  attention-guidance recipe low-resource news.txt --ner ner/ --time 2h -o recipes/sw
  attention-guidance recipe low-resource news.txt --init-from runs/english --ner ner/ -o recipes/sw
  attention-guidance recipe low-resource ... -o recipes/sw --resume     # continue a stopped recipe

Analyzes the text (size, script, languages, duplicates), removes duplicates and the sentences of the tasks' dev and test
files, chooses the vocabulary, model size and steps, pre-trains with guidance, fine-tunes on your tasks with several
seeds, in comparison with a model without pre-training, and writes the report OUTPUT/recipe.html and all results as
OUTPUT/recipe.json.
"""

# The flags that replace a choice of the rules.
_CHOICES = ("init_from", "preset", "max_steps", "vocab_size", "masking_rate", "heads")


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "recipe", "clean, pre-train, evaluate and report, for little text", _RECIPE, _recipe)
    add = parser.add_argument
    add("recipe", choices=["low-resource"], metavar="low-resource", help="the recipe for languages with little text")
    add("files", nargs="*", metavar="CORPUS", help="text files, folders, - (stdin); default: the World English Bible")
    add_output(parser)
    add("--ner", type=Path, metavar="DIR", help="folder of train, dev, test: a word and its entity label per line")
    add("--classify", type=Path, metavar="FILE", help="table of texts and labels, or folder of train, dev, test")
    add("--compare", action="store_true", help="also pre-train without guidance, to measure its effect")
    add("--seeds", type=positive, default=5, metavar="N", help="fine-tuning seeds for each task (5)")
    add("--seed", type=seed, default=1, metavar="N", help="seed of pre-training (1)")
    add("--time", metavar="TIME", help="take this long for everything, such as 2h: fewer steps if 40 epochs do not fit")
    add("--resume", action="store_true", help="continue a stopped recipe")
    group = parser.add_argument_group("instead of the choices of the rules").add_argument
    group("--init-from", metavar="MODEL", help="start from this model, of any language, instead of from nothing")
    group("--keep-tokenizer", action="store_true", help="with --init-from: keep that model's tokenizer (a new one)")
    group("--preset", metavar="NAME", help="tiny, mini, small, base (by the size of the text)")
    group("--max-steps", type=positive, metavar="N", help="optimization steps (40 epochs, within 1,500 to 6,000)")
    group("--vocab-size", type=positive, metavar="N", help="vocabulary size (by the size of the text)")
    group("--masking-rate", type=float, metavar="X", help="share of the tokens to predict (0.15)")
    group("--heads", metavar="SPEC", help="guided heads, as in pretrain")
    add_reading(parser)


def _recipe(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.recipe.low_resource import low_resource
    from attention_guidance.commands.recipe.plan import RecipeSettings

    arguments.pop("recipe")
    output = arguments.pop("output")
    how = {name: arguments.pop(name) for name in ("resume", "overwrite", "quiet")}
    overrides = given({name: arguments.pop(name) for name in _CHOICES})
    if arguments.pop("keep_tokenizer"):
        if "init_from" not in overrides:
            raise ConfigError("--keep-tokenizer needs --init-from MODEL")
        if "vocab_size" in overrides:
            raise ConfigError("--vocab-size is for training a tokenizer; leave it out, or leave out --keep-tokenizer")
        overrides["new_tokenizer"] = False
    low_resource(RecipeSettings(text_of(arguments), overrides=overrides, **arguments), output, **how)
    return 0
