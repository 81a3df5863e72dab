"""One pre-training run: its folder, its model, its training, what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, RobertaConfig, RobertaForMaskedLM, TrainerCallback, set_seed

from attention_guidance import results
from attention_guidance.attach import Guidance, guide
from attention_guidance.data.tokenizers import vocabulary_size
from attention_guidance.errors import RunError
from attention_guidance.objectives.masked_head import MaskedHead
from attention_guidance.objectives.masked_lm import MaskedDraws, Quality, collate, validate, validation_batches
from attention_guidance.objectives.masking import Masking
from attention_guidance.schedules import Schedule
from attention_guidance.training import checkpoints
from attention_guidance.training.arguments import training_arguments
from attention_guidance.training.checks import check_writable
from attention_guidance.training.config import CONFIG_FILE, RunConfig, check_same_run, write_yaml
from attention_guidance.training.model_card import model_card
from attention_guidance.training.prepare import PreparedData, check_unchanged
from attention_guidance.training.trainer import MaskedLMTrainer, saving

RESULTS_FILE = "results.json"
_DATA_FILE = "data.json"


class RunFolder:
    """The folder of a run and the parts in it.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / CONFIG_FILE
        self.tokenizer = path / "tokenizer"
        self.data = path / _DATA_FILE
        self.checkpoints = path / "checkpoints"
        self.logs = path / "logs"
        self.results = path / RESULTS_FILE

    def claim(self, config: RunConfig, resume: bool) -> None:
        """Make sure that the folder is free, or holds this very run to be resumed. Writes nothing.

        Raises:
            RunError: it holds another run, or files of another kind, or cannot be written to.
        """
        check_writable(self.path)
        if self.config.exists():
            if not resume:
                raise RunError(f"--output {self.path} holds a run already: go on with --resume, or give another folder")
            check_same_run(config, self.config)
        # A run that died while it wrote its first file leaves only that file's beginning.
        elif self.path.exists() and any(not path.name.endswith(".partial") for path in self.path.iterdir()):
            raise RunError(f"--output {self.path} is not empty and holds no run; give another folder")

    def check_text(self, data: PreparedData) -> None:
        """Make sure that the run, if it has begun, began with this text.

        Raises:
            CorpusError: it began with another.
        """
        if self.data.exists():
            check_unchanged(data, json.loads(self.data.read_text())["fingerprint"], self.path)

    def begin(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, data: PreparedData | None = None) -> None:
        """Write down what the run is, as far as that has not been done.

        Args:
            config: its settings.
            tokenizer: its tokenizer.
            data: what it trains on; a comparison has none of its own.

        Raises:
            RunError: the folder cannot be made.
        """
        if self.data.exists():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--output {self.path} cannot be made ({error.strerror}); give another folder") from error
        write_yaml(config, self.config)
        if not self.tokenizer.exists():
            checkpoints.write_whole(self.tokenizer, lambda folder: tokenizer.save_pretrained(folder))
        if data is not None:
            results.write_json(self.data, {"fingerprint": data.fingerprint})

    @property
    def finished(self) -> dict[str, Any] | None:
        """The results, if the run has ended."""
        return json.loads(self.results.read_text()) if self.results.exists() else None


class Run:
    """A run ready to train, its folder begun.

    Args:
        config: its settings; empty `heads` trains without guidance.
        data: what it trains on.
        folder: where it is kept.
        callbacks: more callbacks for the Trainer.

    Attributes:
        model: the model under training.
        guidance: the handle on its guided heads, None without guidance.
        trainer: trains it.
    """

    def __init__(
        self, config: RunConfig, data: PreparedData, folder: RunFolder, callbacks: Sequence[TrainerCallback] = ()
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        set_seed(config.seed)
        self.model = random_model(config, vocabulary_size(data.tokenizer), **_token_ids(data.tokenizer))
        MaskedHead(self.model)
        self.guidance = guide_as_configured(self.model, config, data.tokenizer) if config.heads else None
        self.masking = Masking.for_tokenizer(data.tokenizer, config.masking_rate)
        self.arguments = training_arguments(config, folder)
        # Trainer makes the folder of checkpoints; what the run is has to be there before.
        folder.begin(config, data.tokenizer, data)
        self.trainer = MaskedLMTrainer(
            model=self.model,
            args=self.arguments,
            train_dataset=MaskedDraws(data.train, self.masking, config.max_steps * config.batch_size, config.seed),
            data_collator=collate,
            processing_class=data.tokenizer,
            validate=lambda model: self.validate(),
            scales_loss=self.guidance is not None,
            callbacks=[*([self.guidance.callback()] if self.guidance else []), *callbacks],
        )
        self.resumed_from: int | None = None

    def validate(self) -> Quality:
        """Quality on the validation text; under guidance, `per_head` then tells of the same text."""
        batches = validation_batches(self.data.validation, self.masking, self.arguments.per_device_eval_batch_size)
        precision = self.trainer.compute_loss_context_manager()
        if self.guidance is None:
            return validate(self.model, batches, precision)
        with self.guidance.measure():
            return validate(self.model, batches, precision)

    def train(self) -> bool:
        """Train, from the last good checkpoint if there is one.

        Returns:
            Whether the run came to its end; False when it was asked to stop before.
        """
        checkpoint = checkpoints.last_good(self.folder.checkpoints)
        # Whatever else has drawn random numbers since this run was made.
        set_seed(self.config.seed)
        if checkpoint is not None:
            self.resumed_from = checkpoints.step_of(checkpoint)
            self.trainer.timer.load(checkpoint)
            self.arguments.eval_on_start = False
        self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return bool(self.trainer.state.global_step >= self.config.max_steps)

    def finish(self) -> dict[str, Any]:
        """Write the model, its card and the results into the run's folder.

        Returns:
            The results as written.
        """
        summary = self.summary()

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder)
            self.data.tokenizer.save_pretrained(folder)
            (folder / "README.md").write_text(model_card(summary), encoding="utf-8")

        with saving(f"the model in {self.folder.path}", self.folder.checkpoints):
            checkpoints.write_whole(self.folder.path / "model", write)
            results.write_json(self.folder.results, summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """The results: what was trained on what, and how well it came out."""
        curve = self.curve()
        quality = self.validate()
        return {
            **results.header("pretrain"),
            "config": dataclasses.asdict(self.config),
            "corpus": self.data.name,
            "model": model_facts(self.model),
            "data": {
                "documents": self.data.n_documents,
                "train_tokens": self.data.train.n_tokens,
                "validation_tokens": self.data.validation.n_tokens,
                "fingerprint": self.data.fingerprint,
            },
            "steps": self.config.max_steps,
            "tokens_per_step": self.config.batch_size * self.config.block_size,
            "resumed_from": self.resumed_from,
            "precision": "bf16" if self.arguments.bf16 else "fp16" if self.arguments.fp16 else "fp32",
            "final_loss": quality.loss,
            "final_perplexity": quality.perplexity,
            "final_accuracy": quality.accuracy,
            "train_seconds": curve[-1]["seconds"] if curve else 0.0,
            "step_seconds_p50": statistics.median(self.trainer.timer.seconds or [0.0]),
            "curve": curve,
            "guidance": [dataclasses.asdict(head) for head in self.guidance.per_head()] if self.guidance else [],
        }

    def curve(self) -> list[dict[str, float]]:
        """Validation over training: step, loss, accuracy, seconds of training until then."""
        return [
            {
                "step": entry["step"],
                "loss": entry["eval_loss"],
                "accuracy": entry["eval_accuracy"],
                "seconds": entry["eval_train_seconds"],
            }
            for entry in self.trainer.state.log_history
            if "eval_loss" in entry
        ]


def random_model(config: RunConfig, vocabulary: int, **tokens: int) -> RobertaForMaskedLM:
    """A RoBERTa of the configured size with random weights (seed them first).

    Args:
        config: the run.
        vocabulary: tokens of its tokenizer.
        **tokens: ids of the tokenizer's special tokens, as in `RobertaConfig`.
    """
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2} | tokens
    return RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=vocabulary,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.attention_heads,
            intermediate_size=config.feed_forward,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            # RoBERTa numbers positions from the padding id + 1 on.
            max_position_embeddings=config.block_size + tokens["pad_token_id"] + 1,
            type_vocab_size=1,
            **tokens,
        )
    )


def _token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The special ids a model's config tells; BERT's tokenizers have cls and sep where RoBERTa's have bos and eos."""
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id if start is None else start,
        "eos_token_id": tokenizer.sep_token_id if end is None else end,
    }


def guide_as_configured(
    model: RobertaForMaskedLM, config: RunConfig, tokenizer: PreTrainedTokenizerBase | None
) -> Guidance:
    """Attach the guidance that a configuration describes."""
    return guide(
        model,
        config.heads,
        config.weight,
        loss=config.loss,
        normalization=config.normalization,
        schedule=Schedule(config.schedule, config.hold, config.end),
        total_steps=config.max_steps,
        tokenizer=tokenizer,
        token_classes=config.token_classes,
    )


def model_facts(model: RobertaForMaskedLM) -> dict[str, int]:
    """The size of a model, for results and reports."""
    return {
        "layers": model.config.num_hidden_layers,
        "hidden": model.config.hidden_size,
        "heads": model.config.num_attention_heads,
        "parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
    }
