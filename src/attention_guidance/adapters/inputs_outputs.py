"""Read a model's arguments by name, its documents and patches, and its loss."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attention_guidance.errors import PatternError
from attention_guidance.patterns import Pattern, wants_class_token


def named_inputs(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model's forward by name, including those in its ``**kwargs``."""
    # That of a bound method or a module is not kept: it would keep the model. torch.compile does not trace a cache.
    keeps = inspect.isfunction(forward) and not torch.compiler.is_compiling()
    signature = _signature(forward) if keeps else inspect.signature(forward)
    named = dict(signature.bind_partial(*args, **kwargs).arguments)
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name, {})
    return named


@functools.lru_cache(maxsize=64)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def document_numbers(position_ids: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """The document number of each position, long [B, T], for several documents packed into one sequence.

    A document begins wherever the position ids do not increase by one. None without position ids of shape [B, T].
    """
    if position_ids is None or position_ids.dim() != 2 or position_ids.shape[-1] != size[1]:
        return None
    borders_BT = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1) != 1
    return borders_BT.long().cumsum(-1).expand(size)


def patch_grid(inputs: Mapping[str, Any], patch_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of an image in patches, or None if the input has no images."""
    pixels = inputs.get("pixel_values")
    if patch_size is None or not isinstance(pixels, Tensor) or pixels.dim() != 4:
        return None
    return pixels.shape[2] // patch_size[0], pixels.shape[3] // patch_size[1]


def patch_size_of(config: Any) -> tuple[int, int] | None:
    """Height and width of a model's image patches in pixels, or None."""
    if getattr(config, "num_detection_tokens", 0):
        # YOLOS has detection tokens after the patches, where the last patches are expected.
        return None
    size = getattr(config, "patch_size", None)
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, list | tuple) and len(size) == 2 else None


# Names of the parameters of class tokens before the patches. Neither a token of a pooling head (AIMv2) nor a token
# after the patches (Llama 4) is one.
_CLASS_TOKEN = re.compile(r"(.*\.)?((?<!head\.)(cls_token|class_token|cls_register_token)|embeddings\.class_embedding)")


def check_class_token(patterns: Iterable[Pattern], model: nn.Module) -> None:
    """Check that a model has a class token, if a pattern attends to it.

    Raises:
        PatternError: it has none, so the pattern would attend to the first patch or word.
    """
    wanting = next((pattern for pattern in patterns if wants_class_token(pattern)), None)
    if wanting is not None and not any(_CLASS_TOKEN.fullmatch(name) for name, _ in model.named_parameters()):
        raise PatternError(
            f"pattern {wanting.name!r} attends to the class token of an image model, and {type(model).__name__} has "
            "none; 'first' is the first position, whatever token is there"
        )


def loss_of(output: Any) -> Tensor | None:
    """The loss in a model's output: its key `loss`, its first element if that is a scalar, or the scalar output."""
    if isinstance(output, Mapping):
        loss = output.get("loss")
        return loss if isinstance(loss, Tensor) else None
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) and first.dim() == 0 else None


def with_loss(output: Any, loss: Tensor) -> Any:
    """A model's output with another loss where `loss_of` finds it."""
    if isinstance(output, Tensor):
        return loss
    if isinstance(output, tuple):
        named = hasattr(output, "_make")
        return type(output)._make((loss, *output[1:])) if named else (loss, *output[1:])  # type: ignore[attr-defined]
    output["loss"] = loss
    return output


def share_of_batch(inputs: Mapping[str, Any]) -> Tensor | None:
    """This micro-batch's share of the labels of the whole accumulated batch, or None if Trainer passes no number.

    BERT and RoBERTa accept the number and ignore it, while Trainer relies on models to divide by it. Without this
    correction, their loss and gradients are multiplied by the number of accumulation steps.
    """
    n_items, labels = inputs.get("num_items_in_batch"), inputs.get("labels")
    if n_items is None or labels is None:
        return None
    share: Tensor = (labels != -100).sum() / n_items
    return share
