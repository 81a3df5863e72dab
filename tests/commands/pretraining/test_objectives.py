"""Each objective, guided and unguided, through the same code as `pretrain`."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, ElectraForPreTraining, TrainerCallback

from attention_guidance import guide
from attention_guidance.commands.objectives import OBJECTIVES
from attention_guidance.commands.objectives.base import Draws, validate, validation_batches
from attention_guidance.commands.objectives.masking import IGNORED
from attention_guidance.commands.pretraining.preparation.prepare import prepare_data
from attention_guidance.commands.pretraining.run import Run
from attention_guidance.commands.pretraining.saving.folder import RunFolder
from attention_guidance.errors import ConfigError
from attention_guidance.models import replaced_tokens

EVERY = [*OBJECTIVES, "own"]


@pytest.fixture(scope="session")
def trained(run_of):
    """Guided and unguided, trained to the end, with the losses before and after."""
    kept: dict[str, dict[str, tuple[Run, float, float]]] = {}

    def of(objective: str):
        if objective not in kept:
            kept[objective] = {}
            for arm, more in (("guided", {}), ("unguided", {"heads": ""})):
                run = run_of(objective, **more)
                before = run.validate().loss
                assert run.train()
                kept[objective][arm] = run, before, run.finish()["final_loss"]
        return kept[objective]

    return of


@pytest.mark.parametrize("objective", EVERY)
def test_the_loss_falls_and_guided_heads_get_there(trained, objective):
    for _, before, after in trained(objective).values():
        assert math.isfinite(after)
        assert after < 0.95 * before
    run = trained(objective)["guided"][0]
    masses = [mass for part in run.guidance for mass in masses_on_patterns(run, part)]
    assert len(masses) == 4
    assert min(masses) >= 0.9, masses
    if objective == "speech":
        # Where only one unit is left, all frames are right.
        assert run.validate().means["units"] > 5


def masses_on_patterns(run: Run, part: str) -> list[float]:
    """For each guided head, exp of the mean log mass on its targets: at most the mean mass."""
    run.guidance[part].remove()
    encoder = run.objective.guided_parts(run.model)[part]
    looking = guide(encoder, run.config.heads, loss="log_mass", tokenizer=run.data.tokenizer, within=run.model)
    with looking.measure():
        validate(run.model, run.objective, _batches(run))
    looking.remove()
    return [math.exp(-head.error) for head in looking.per_head()]


@pytest.mark.parametrize("objective", EVERY)
def test_weight_0_is_unguided_bit_for_bit(run_of, objective):
    short = {"max_steps": 3, "accumulation": 2, "eval_every": 1}
    guided, unguided = run_of(objective, weight=0.0, **short), run_of(objective, heads="", **short)
    # One after the other, as both draw from the same source of chance.
    for run in (guided, unguided):
        assert run.train()
    for (name, theirs), ours in zip(
        unguided.model.state_dict().items(), guided.model.state_dict().values(), strict=True
    ):
        assert torch.equal(theirs, ours), name
    assert [point["loss"] for point in guided.curve()] == [point["loss"] for point in unguided.curve()]


# The units of speech are drawn at random (Gumbel), which depends on the size of the batch.
@pytest.mark.parametrize("objective", [name for name in EVERY if name != "speech"])
def test_accumulation_changes_nothing(run_of, objective):
    losses = []
    for accumulation in (1, 2):
        run = run_of(objective, max_steps=4, accumulation=accumulation, heads="", eval_every=4)
        assert run.train()
        losses.append(run.validate().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("objective", EVERY)
def test_examples_are_the_same_in_another_process(run_of, objective):
    """Where processes that load data are not forked, what makes examples is pickled."""
    run = run_of(objective, heads="", max_steps=1)
    here = Draws(run.data.train, run.objective, 8, 1)
    there = pickle.loads(pickle.dumps(here))
    for draw in range(4):
        assert here[draw].keys() == there[draw].keys()
        assert all(torch.equal(tensor, there[draw][name]) for name, tensor in here[draw].items())


# Lines of different lengths, each a sequence, so that no two batches hold as many tokens.
@pytest.mark.parametrize(("objective", "more"), [(name, {}) for name in EVERY] + [
    (name, {"line_by_line": True, "block_size": 64}) for name in EVERY if name not in ("mim", "speech")
])  # fmt: skip
def test_how_validation_is_batched_changes_nothing(run_of, objective, more):
    n_tokens = 23 * more.get("block_size", 16)
    run = run_of(objective, max_steps=4, max_validation_tokens=n_tokens, validation_share=0.43, **more)
    assert run.train()
    assert len(run.data.validation) > 16
    assert len(run.data.validation) % 16
    one, *others = (run.validate(), *_validated(run, 1, 4, 16))
    for other in others:
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.accuracy == one.accuracy
        for name, value in other.means.items():
            # How many units are in use is a figure of a batch.
            assert name == "units" or value == pytest.approx(one.means[name], rel=1e-5)


def _validated(run: Run, *sizes: int):
    for size in sizes:
        run.arguments.per_device_eval_batch_size = size
        yield run.validate()


@pytest.mark.parametrize("objective", EVERY)
def test_what_is_saved_loads_with_transformers(trained, objective):
    run = trained(objective)["guided"][0]
    model = AutoModel.from_pretrained(run.folder.path / "model")
    assert model.config.num_hidden_layers == 2
    summary = json.loads(run.folder.results.read_text())
    assert (run.folder.path / "model" / "README.md").read_text().startswith("---\nlibrary_name: transformers")
    assert summary["tokens_per_step"] == run.config.batch_size * run.data.train.width
    assert (summary["final_perplexity"] is not None) == run.objective.gives_perplexity
    assert (summary["final_accuracy"] is None) == (objective == "mim")


@pytest.mark.parametrize("objective", ["rtd", "mlm+sop", "mim", "speech"])
def test_a_stopped_run_goes_on_exactly(settings, tmp_path, objective):
    config = settings(objective, max_steps=6, save_every=2, eval_every=3, dropout=0.1)
    data = prepare_data(config, lambda said: None)
    whole = Run(config, data, RunFolder(tmp_path / "whole"))
    assert whole.train()
    halved = Run(config, data, RunFolder(tmp_path / "halved"))
    halved.trainer.add_callback(_StopAfter(4))
    assert not halved.train()
    resumed = Run(config, data, RunFolder(tmp_path / "halved"))
    assert resumed.train()
    assert resumed.resumed_from == 4
    for name, theirs in whole.model.state_dict().items():
        assert torch.equal(theirs, resumed.model.state_dict()[name]), name


class TestReplacedTokens:
    def test_the_generator_is_narrower_and_shares_its_embeddings(self, run_of):
        model = run_of("rtd").model
        assert model.generator.config.hidden_size == 16
        assert (
            model.generator.electra.embeddings.word_embeddings.weight is model.electra.embeddings.word_embeddings.weight
        )

    def test_the_loss_is_the_weighted_sum(self, run_of):
        run = run_of("rtd", heads="")
        (batch,) = [*_batches(run)][:1]
        output = run.model.eval()(**batch)
        assert output.loss.item() == pytest.approx(
            output.generator_loss.item() + 50 * output.discriminator_loss.item(), rel=1e-6
        )
        labels_BT = batch["labels"]
        # The generator's loss is that of transformers' own head over all positions.
        del batch["chance"]
        theirs = run.model.generator(**batch).loss
        assert output.generator_loss.item() == pytest.approx(theirs.item(), rel=1e-5)
        assert not (output.replaced & (labels_BT == IGNORED)).any()
        assert output.replaced.sum() > 0.9 * (labels_BT != IGNORED).sum()

    def test_what_the_generator_draws_comes_with_the_example(self, run_of):
        run = run_of("rtd", heads="")
        batch = next(_batches(run))
        torch.manual_seed(0)
        one = run.model.eval()(**batch)
        torch.manual_seed(1)
        assert torch.equal(run.model(**batch).replaced, one.replaced)
        half = run.model(**{name: tensor[2:] for name, tensor in batch.items()})
        assert torch.equal(half.replaced, one.replaced[2:])

    def test_tokens_are_drawn_as_often_as_is_their_share(self):
        share_V = torch.tensor([0.1, 0.0, 0.6, 0.3])
        drawn_N = replaced_tokens._draw(share_V.log().repeat(100_000, 1), (torch.arange(100_000) + 0.5) / 100_000)
        assert torch.bincount(drawn_N, minlength=4).tolist() == pytest.approx([10_000, 0, 60_000, 30_000], abs=2)

    @pytest.mark.parametrize(("part", "parts"), [("generator", 1), ("both", 2)])
    def test_either_encoder_is_guided(self, run_of, part, parts):
        # Wide enough that the generator has as many heads as are guided.
        run = run_of("rtd", guided_part=part, attention_heads=4, heads="next@0", max_steps=2)
        assert run.train()
        assert len(run.guidance) == parts
        assert {entry["part"] for entry in run.summary()["guidance"]} == set(run.guidance)

    def test_guidance_joins_the_whole_loss_once(self, run_of):
        run = run_of("rtd")
        batch = next(_batches(run))
        run.model.train()
        torch.manual_seed(0)
        output = run.model(**batch)
        objective = output.generator_loss + 50 * output.discriminator_loss
        added = run.guidance["discriminator"].loss()
        assert added > 0
        assert output.loss.item() == pytest.approx((objective + added).item(), rel=1e-6)

    def test_both_are_saved_and_trained_on(self, trained, run_of):
        run = trained("rtd")["guided"][0]
        folder = run.folder.path / "model"
        discriminator, generator = ElectraForPreTraining.from_pretrained(folder), folder / "generator"
        ids_BT = next(_batches(run))["input_ids"]
        with torch.no_grad():
            assert torch.equal(discriminator.eval()(ids_BT).logits, run.model.eval()(ids_BT).logits)
        assert AutoModelForMaskedLM.from_pretrained(generator).config.hidden_size == 16
        again = run.objective.trained_model(str(folder))
        for name, theirs in run.model.state_dict().items():
            assert torch.equal(theirs, again.state_dict()[name]), name


class TestSentencePairs:
    @pytest.mark.parametrize("objective", ["mlm+nsp", "mlm+sop"])
    def test_pairs_are_made_of_pieces_of_blocks(self, run_of, objective):
        run = run_of(objective, heads="")
        draws = Draws(run.data.train, run.objective, 400, 1)
        start, end = (run.data.tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "</s>"))
        true = [run.objective._split(*run.data.train[n]) for n in range(len(run.data.train))]
        pairs = {(tuple(a), tuple(b)) for a, b in true}
        asked = 0
        for n in range(400):
            example = draws[n]
            ids_T = torch.where(example["labels"] == IGNORED, example["input_ids"], example["labels"])
            second_T = example["token_type_ids"].bool()
            valid_T = example.get("attention_mask", torch.ones_like(ids_T)).bool()
            first, second = ids_T[valid_T & ~second_T].tolist(), ids_T[second_T].tolist()
            assert (first[0], first[-1], second[-1]) == (start, end, end)
            pair = tuple(first[1:-1]), tuple(second[:-1])
            changed = bool(example["pair_label"])
            asked += changed
            # The second of a pair may have lost its end to make room for another's first.
            if not changed:
                assert pair in pairs
            elif objective == "mlm+sop":
                assert pair[::-1] in pairs
            else:
                assert pair not in pairs
        assert 150 < asked < 250

    def test_heads_for_pairs_are_needed(self, run_of):
        with pytest.raises(ConfigError, match=r"roberta.*no head for pairs"):
            run_of("mlm+nsp", arch="roberta")

    def test_bert_is_asked_for_the_order_too(self, run_of):
        run = run_of("mlm+sop", arch="bert", max_steps=2)
        assert run.train()
        assert 0 <= run.validate().means["pair_accuracy"] <= 1


class TestSpeech:
    def test_the_loss_is_the_mean_over_hidden_frames(self, run_of):
        run = run_of("speech", heads="")
        batch = next(_batches(run))
        output = run.model.eval()(**batch)
        hidden = batch["mask_time_indices"].sum()
        assert hidden == round(0.5 * 12) * len(batch["input_values"])
        whole = output.contrastive_loss + 0.1 * output.diversity_loss
        assert output.loss.item() == pytest.approx((whole / hidden).item(), rel=1e-6)

    def test_false_units_are_of_other_hidden_frames_of_the_same_recording(self, run_of):
        run = run_of("speech", heads="")
        batch = next(_batches(run))
        hidden_BT, false_BTK = batch["mask_time_indices"], batch["sampled_negative_indices"]
        n_frames = hidden_BT.shape[1]
        for b, t in hidden_BT.nonzero().tolist():
            false_K = false_BTK[b, t]
            assert ((false_K // n_frames) == b).all()
            assert hidden_BT[b, false_K % n_frames].all()
            assert not (false_K % n_frames == t).any()

    def test_recordings_are_resampled(self, settings):
        # 4 s are 16 stretches of 12 frames (0.245 s), whatever the samples a second.
        data = prepare_data(settings("speech"), lambda said: None)
        assert len(data.train) + len(data.validation) == 10 * 16

    def test_accuracy_counts_the_nearest_unit(self, run_of):
        run = run_of("speech", heads="")
        batch = next(_batches(run))
        output = run.model.eval()(**batch)
        perfect = dataclasses.replace(output, projected_states=output.projected_quantized_states)
        assert run.objective.score(batch, perfect).n_right == int(batch["mask_time_indices"].sum())
        opposite = dataclasses.replace(output, projected_states=-output.projected_quantized_states)
        assert run.objective.score(batch, opposite).n_right < 0.5 * int(batch["mask_time_indices"].sum())


def _batches(run: Run):
    return validation_batches(run.data.validation, run.objective, 4)


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step
