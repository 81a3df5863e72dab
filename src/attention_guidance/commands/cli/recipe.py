"""The command that does it all: `recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attention_guidance.commands.cli.arguments import TEXT, add_command, add_output, add_reading, fail, positive, seed

_RECIPE = """\
From raw text to a model and a page that says what it is worth, with settings chosen for the text.

  attention-guidance recipe low-resource news.txt bible.txt --ner ner/ -o runs/sw
  attention-guidance recipe low-resource wiki/ --classify topics.tsv -o runs/sw --compare
  attention-guidance recipe low-resource ... -o runs/sw --resume     go on after a stop

Looks at the text (size, script, languages, repetitions), leaves out what repeats and every sentence of the tasks' dev
and test files, chooses vocabulary, size and steps, pre-trains with guidance, fine-tunes on your tasks over seeds beside
a model without pre-training, and writes OUTPUT/recipe.html (for reading) and OUTPUT/recipe.json (every figure).
"""


def add_commands(commands: Any) -> None:
    """Add the command."""
    parser = add_command(commands, "recipe", "clean, pre-train, score and report, for little text", _RECIPE, _recipe)
    add = parser.add_argument
    add("recipe", choices=["low-resource"], metavar="low-resource", help="the recipe for languages with little text")
    add("files", nargs="*", metavar="CORPUS", help="text files, folders, - (stdin); default: the World English Bible")
    add_output(parser)
    add("--ner", type=Path, metavar="DIR", help="folder of train, dev, test: a word and its entity label a line")
    add("--classify", type=Path, metavar="FILE", help="table of texts and labels, or folder of train, dev, test")
    add("--compare", action="store_true", help="pre-train without guidance too, to see what guidance brings")
    add("--seeds", type=positive, default=5, metavar="N", help="fine-tunings of each task (5)")
    add("--seed", type=seed, default=1, metavar="N", help="of pre-training (1)")
    add("--resume", action="store_true", help="go on where it was stopped")
    group = parser.add_argument_group("in place of what the rules choose").add_argument
    group("--preset", metavar="NAME", help="tiny, mini, small, base (by the size of the text)")
    group("--max-steps", type=positive, metavar="N", help="optimisation steps (40 passes, 1,500 to 6,000)")
    group("--vocab-size", type=positive, metavar="N", help="tokens of the vocabulary (by the size of the text)")
    group("--masking-rate", type=float, metavar="X", help="share of the tokens to predict (0.15)")
    group("--heads", metavar="SPEC", help="guided heads, as in pretrain")
    add_reading(parser)


def _recipe(arguments: dict[str, Any]) -> int:
    from attention_guidance.commands.pretraining.pretrain import Stopped
    from attention_guidance.commands.recipe.low_resource import RecipeSettings, low_resource
    from attention_guidance.commands.studies.sample import Text

    arguments.pop("recipe")
    output = arguments.pop("output")
    how = {name: arguments.pop(name) for name in ("resume", "overwrite", "quiet")}
    given = {name: arguments.pop(name) for name in ("preset", "max_steps", "vocab_size", "masking_rate", "heads")}
    overrides = {name: value for name, value in given.items() if value is not None}
    text = Text(**{name: arguments.pop(name) for name in TEXT})
    try:
        low_resource(RecipeSettings(text, overrides=overrides, **arguments), output, **how)
    except Stopped as stopped:
        return fail(stopped, 128 + stopped.signal)
    return 0
