"""Push a trained model to the Hugging Face hub, with transformers' own client and names of settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attention_guidance.commands.pretraining.saving.checkpoints import SEAL
from attention_guidance.errors import ConfigError, FailedRunError, reason_of

_LOG_IN = "set HF_TOKEN to a token with write access, or run `hf auth login`"


@dataclass(frozen=True)
class Hub:
    """Where a model goes on the hub; the token is that of HF_TOKEN or `hf auth login`, and is never written.

    Attributes:
        model_id: name of the repository, `NAME` or `OWNER/NAME` (TrainingArguments' `hub_model_id`).
        private: whether a new repository is private (`hub_private_repo`); None is the owner's default.
    """

    model_id: str
    private: bool | None = None

    def check(self) -> None:
        """Check what can be checked without the network.

        Raises:
            ConfigError: the hub is switched off, or there is no token.
        """
        from huggingface_hub import get_token
        from huggingface_hub.constants import is_offline_mode

        if is_offline_mode():
            raise ConfigError(
                "`push_to_hub`: the hub is switched off by HF_HUB_OFFLINE; unset it, or leave `push_to_hub` out"
            )
        if not get_token():
            raise ConfigError(f"`push_to_hub`: there is no token of the Hugging Face hub; {_LOG_IN}")

    def create(self) -> str:
        """Create the repository, unless it exists, as transformers' Trainer does before it trains.

        Returns:
            Its full name, `OWNER/NAME`.

        Raises:
            ConfigError: the hub refuses, or cannot be reached.
        """
        from transformers.utils.hub import hf_api

        try:
            return str(hf_api().create_repo(self.model_id, private=self.private, exist_ok=True).repo_id)
        except Exception as error:  # the hub and its network raise all kinds
            raise ConfigError(
                f"hub_model_id={self.model_id!r}: the hub does not accept it ({reason_of(error)}); give a name "
                f"that you may write to, and {_LOG_IN}"
            ) from error

    def push(self, folder: Path) -> str:
        """Upload a saved model with its tokenizer and model card.

        Returns:
            Its address.

        Raises:
            FailedRunError: the upload failed; the model is still in the folder.
        """
        from transformers.utils.hub import hf_api

        name = self.create()
        try:
            commit = hf_api().upload_folder(
                repo_id=name, folder_path=str(folder), ignore_patterns=[SEAL], commit_message="Upload a trained model"
            )
        except Exception as error:  # the hub and its network raise all kinds
            raise FailedRunError(
                f"the model in {folder} could not be pushed to {name} ({reason_of(error)}); try again with "
                "`resume` and `push_to_hub`, which does not train again"
            ) from error
        return str(commit.repo_url)
