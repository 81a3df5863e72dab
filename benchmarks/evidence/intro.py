"""The beginning of the page, and what is said before its tables."""

from attention_guidance.commands.pretraining.settings.config import RunConfig

from .abstract import EFFICIENT
from .stats import MARGIN, percent
from .study import BASE

TOKENS = BASE["batch_size"] * BASE["block_size"]

_READING = (
    "*Loss* is the final validation loss in nats, without guidance, as mean ± standard deviation over seeds.",
    "A difference is paired by seed. Its 95 % interval is Student's t over seeds and says nothing about other texts or "
    "sizes. With three seeds it is wide, which makes the verdicts strict.",
    "*Steps ratio* is the first validated step at which a run is at or below the final loss of the unguided run, "
    "divided by the unguided run's number of steps.",
    f"A run is *off the plateau* once its loss is more than {MARGIN} nats below the entropy of the validation tokens, "
    "the least loss without context.",
    "A verdict follows from the rule beneath it, and is *open* until all runs of the study are made.",
)
#: Paragraphs in Markdown.
INTRO = (
    "Claims of [the paper](https://arxiv.org/abs/2010.02399) and of this project, each tested by a study of small runs "
    "that you can repeat with one command. `python -m benchmarks.evidence page` writes this page from [the kept "
    "results](../benchmarks/README.md) alone, verdicts included.",
    "**How to read it.** All runs are made by the trainer of `pretrain`. Unless a table says otherwise, a model has "
    f"{BASE['layers']} layers of width {BASE['hidden']} with {BASE['attention_heads']} heads and reads {TOKENS:,} "
    f"tokens of the World English Bible a step ({BASE['block_size']} a sequence, vocabulary {BASE['vocab_size']:,}), "
    f"for {BASE['max_steps']} steps, with a learning rate of {BASE['learning_rate']:g} and the default guidance "
    f"(`{RunConfig.heads}`, weight {RunConfig.weight:g}, full for {percent(RunConfig.hold)} of the run, then falling "
    "linearly to 0).",
    "\n".join(f"- {item}" for item in _READING),
    "**What it is not.** The models are some 700 times smaller than RoBERTa-base and most read 0.6 million tokens, so "
    "that anyone can repeat this on one core; those of *confirmation* have 5 million parameters and read 2.5 million "
    "tokens. Results of longer runs and of downstream tasks are in the "
    "[README](../README.md#what-it-brings-and-what-it-does-not).",
    "**What was chosen when.** The learning rate was chosen in a first look at two rates: 3e-3 was better than the "
    f"preset's 1e-3 for both arms, and in {2 * BASE['max_steps']} steps guided ended 1.2 nats below unguided. The "
    f"margin of {MARGIN} was chosen after that look; *hyperparameters* has the counts for others. The number of steps "
    "was then halved to save time. Rules were written before the results of their studies were known, except where a "
    "study says so.",
)
ASKED = (
    "Goals that were set for guidance, and what these runs reach. *Any kind* is the best of RoBERTa, BERT, ModernBERT "
    "and the attention-only encoder, each with the learning rate and warm-up chosen for it. Time is the CPU time of "
    "the whole run on one core, as the runs shared a machine: all curves are cut where the fastest model has ended, "
    "the others before their learning rate has fallen to 0. Longer runs are in the "
    "[README](../README.md#what-it-brings-and-what-it-does-not)."
)
ABSTRACT = (
    "Every claim of the abstract, in its words. Three are tested by other benchmarks, whose tables are in the README. "
    f"Their rules: a step takes at most {EFFICIENT} times as long in each setting measured; the guided model is better "
    "on each task; its best entity F1 is at least the published one in each language. *Holds in part* is some of these."
)
DEFAULTS = (
    "The studied defaults of `pretrain`. *Lowest other* is the arm of the study with another value that ends lowest; "
    "*shown to be lower* are all whose 95 % interval lies below 0. Results are kept with the defaults that they were "
    "made with, and no longer count once these change."
)
