"""Does guidance help for images?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..stats import differences, interval, mean_text, pairs_of, ratios_text, table, verdict_of
from ..study import Kept, Section, Spec, Study

_IMAGES: dict[str, Any] = {"objective": "mim", "block_size": None, "vocab_size": None, "max_validation_tokens": None}
DATA: dict[str, dict[str, Any]] = {
    "digits": _IMAGES | {"image_size": 8, "patch_size": 1},
    "photographs": _IMAGES | {"image_size": 32, "patch_size": 4},
}


def guided(data: str, seeds: Sequence[int]) -> list[Spec]:
    """The guided runs on some images, with the default guidance."""
    return [Spec(DATA[data], seed, data) for seed in seeds]


def runs(kept: Kept, seeds: Sequence[int]) -> list[Spec]:
    """Both arms on all images, seed by seed."""
    of_seed = [spec for seed in seeds for data in DATA for spec in guided(data, [seed])]
    return [arm for spec in of_seed for arm in (spec, spec.unguided)]


def section(kept: Kept) -> Section:
    """A row for each set of images."""
    rows = [
        ["images", "model", "unguided", "guided", "guided − unguided (95 %)", "steps ratio of each seed",
         "error of guided heads"]
    ]  # fmt: skip
    found = {}
    for data in DATA:
        arms = guided(data, kept.seeds)
        pairs = pairs_of(kept, arms, [spec.unguided for spec in arms])
        if differences(pairs):
            gap = interval(differences(pairs))
            found[data] = gap.below_zero
            losses = [mean_text([pair[arm] for pair in pairs], ".4f") for arm in (1, 0)]
            errors = [error for of_guided, _ in pairs for error in of_guided["guidance_error"].values()]
            cells = [gap.text("+.4f"), ratios_text(pairs), f"{fmean(errors):.2f}"]
            rows.append([data, pairs[0][0]["model"]["type"], *losses, *cells])
    better = [name for name, is_better in found.items() if is_better]
    because = f"The interval lies below 0 for {len(better)} of {len(found)} sets ({', '.join(better) or 'none'})."
    return Section(verdict_of([*found.values()]), because, [table(*rows)])


STUDY = Study(
    name="images",
    claim="Guidance helps for images too.",
    method="The objective `mim`, with its default guidance (`left:1 right:1`) and without. *Digits* are the 1,797 "
    "handwritten digits of scikit-learn, 8 x 8 pixels, each pixel a patch; the last 300 are for validation. "
    "*Photographs* are squares of 32 x 32 pixels, in patches of 4 x 4, cut from the two photographs of scikit-learn: "
    "1,550 that overlap by half for training, 350 from the right fifth of both for validation. The loss is the mean "
    "absolute error of masked pixels, scaled to -1 to 1. The error of guided heads is their distance from the pattern "
    "at the end, from 0 to 2.",
    rule="The 95 % interval of guided − unguided over seeds lies below 0 for both sets: holds; for one: holds in part. "
    "(A trial of each run with another seed, which is not counted, came before this rule.)",
    not_tried="Larger images, and more than two photographs; `up` and `down`; speech (the objective `speech`): neither "
    "the project nor the packages that it needs contain recorded speech, and sound made by a program is not speech.",
    runs=runs,
    section=section,
    run_seconds=15.0,
)
