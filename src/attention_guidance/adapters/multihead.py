"""Models made of `nn.MultiheadAttention`, such as `nn.TransformerEncoder`.

The forward of each guided module is replaced by one that passes the call to the module's processor. If guidance need
not change the computation, it calls the class's own forward: output, weights and dropout are then those of the unguided
module to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from attention_guidance.adapters.base import GUIDING, AttentionProcessor, Purpose, Result, in_backward
from attention_guidance.errors import AttachError
from attention_guidance.loss.call import AttentionCall


class MultiheadAdapter:
    """The adapter of a model that is or contains nn.MultiheadAttention; see `attention_guidance.adapters.base.Adapter`.

    Layers are numbered in the order of ``model.modules()``.

    Raises:
        AttachError: the model is guided already, has a decoder, or has attention that cannot be guided.
    """

    self_normalizing = False
    skips_layers = False

    def __init__(self, model: nn.Module, purpose: Purpose = GUIDING) -> None:
        self.model = model
        self.modules = _guidable_modules(model, purpose)
        self.n_layers = len(self.modules)
        self.n_heads: int = next(iter(self.modules.values())).num_heads
        self.patch_size: tuple[int, int] | None = None
        self.masks = _AdditiveMasks()
        self.forwards: list[MultiheadForward] = []
        self.hooks: list[RemovableHandle] = []
        self.nesting: list[nn.TransformerEncoder] = []

    @property
    def hint(self) -> str:
        """See `Adapter`."""
        names = ", ".join(self.modules)
        return f"its forward must call its nn.MultiheadAttention modules ({names}), not only use their weights"

    def attach(self, processors: Mapping[int, AttentionProcessor]) -> None:
        """See `Adapter`."""
        named = list(self.modules.items())
        for layer, processor in processors.items():
            name, module = named[layer]
            forward = MultiheadForward(module, name, processor, self.masks)
            module.__dict__["forward"] = forward
            self.forwards.append(forward)
            # Without gradients, nn.TransformerEncoderLayer bypasses its modules unless one of them has a hook.
            self.hooks.append(module.register_forward_pre_hook(_no_fused_layer))
        for encoder in self.model.modules():
            # Only fused layers accept nested tensors.
            if isinstance(encoder, nn.TransformerEncoder) and encoder.use_nested_tensor:
                encoder.use_nested_tensor = False
                self.nesting.append(encoder)

    def detach(self) -> None:
        """See `Adapter`."""
        for forward in self.forwards:
            forward.removed = True
            # Keep a forward that the user has set since; it may wrap ours.
            if forward.module.__dict__.get("forward") is forward:
                del forward.module.forward
        for hook in self.hooks:
            hook.remove()
        for encoder in self.nesting:
            encoder.use_nested_tensor = True
        self.forwards, self.hooks, self.nesting = [], [], []

    def begin_pass(self) -> None:
        """See `Adapter`."""
        self.masks.forget()
        for forward in self.forwards:
            forward.called = False

    def end_pass(self) -> None:
        """See `Adapter`; every call was checked when it was made."""


class MultiheadForward:
    """The forward of one guided nn.MultiheadAttention.

    Args:
        module: the attention module.
        name: its name in the model.
        processor: computes its calls.
        masks: which additive masks of this pass only hide keys.
    """

    def __init__(
        self, module: nn.MultiheadAttention, name: str, processor: AttentionProcessor, masks: _AdditiveMasks
    ) -> None:
        self.module = module
        self.name = name
        self.processor = processor
        self.masks = masks
        self.called = False
        self.removed = False

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Result:
        """See nn.MultiheadAttention.

        Raises:
            AttachError: in a guided pass, the call is not bidirectional self-attention with one mask for all heads, or
                is the second call of the pass.
        """
        own: list[Result] = []

        def unguided() -> Result:
            arguments = key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            own.append(nn.MultiheadAttention.forward(self.module, query, key, value, *arguments))
            return own[0]

        # If something wraps this forward, it is still called after `detach`.
        if self.removed or self.processor.is_idle(self.module.training):
            return unguided()
        self._check_call(query, key, is_causal)
        query_BHTD, key_BHTD, value_BHTD = self._projected(query, key, value)
        mask = self._mask(key_padding_mask, attn_mask, query)
        dropout = self.module.dropout if self.module.training else 0.0
        scale = 1 / math.sqrt(self.module.head_dim)
        attention = "eager" if need_weights else "sdpa"
        call = AttentionCall(
            query_BHTD, key_BHTD, value_BHTD, (), scale, mask, None, dropout, attention=attention,
            training=self.module.training,
        )  # fmt: skip
        out_BTHD, _ = self.processor.attend(call, unguided)
        if own:
            # This result has the module's own shapes already.
            return own[0]
        # Like torch, use the weights of out_proj without calling it.
        out = functional.linear(out_BTHD.flatten(2), self.module.out_proj.weight, self.module.out_proj.bias)
        return self._as_input(out, query), None

    def _check_call(self, query: Tensor, key: Tensor, is_causal: bool) -> None:
        purpose = self.processor.purpose
        if not _same(query, key):
            raise AttachError(
                f"{self.name} was called with a key that is not its query, and {purpose.name} is for self-attention"
                + ("; name the layers to guide in heads= to leave this one out" if purpose == GUIDING else "")
            )
        if is_causal:
            raise AttachError(f"{self.name} attends causally; {purpose.name} is for bidirectional encoders")
        if query.is_nested:
            raise AttachError(f"{self.name} was given a nested tensor; {purpose.name} needs a padded one and a mask")
        # A recomputation during the backward pass is not a second call.
        if not in_backward():
            if self.called:
                held = ": guidance.loss() after both calls, or within=, includes both" if purpose == GUIDING else ""
                raise AttachError(
                    f"{self.name} was called twice in one forward pass; {purpose.verb} the part that is called twice "
                    f"instead{held}"
                )
            self.called = True

    def _projected(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values by head, [B, H, T, D], of inputs in the module's own layout."""
        weight, bias = self.module.in_proj_weight, self.module.in_proj_bias
        if all(tensor is inputs[0] for tensor in inputs):
            packed = functional.linear(inputs[0], weight, bias).chunk(3, -1)
        else:
            biases = (None, None, None) if bias is None else bias.chunk(3)
            packed = tuple(functional.linear(*parts) for parts in zip(inputs, weight.chunk(3), biases, strict=True))
        query_BHTD, key_BHTD, value_BHTD = (self._by_head(tensor) for tensor in packed)
        return query_BHTD, key_BHTD, value_BHTD

    def _by_head(self, tensor: Tensor) -> Tensor:
        tensor_BTE = self._batch_first(tensor)
        return tensor_BTE.view(*tensor_BTE.shape[:2], self.module.num_heads, self.module.head_dim).transpose(1, 2)

    def _batch_first(self, tensor: Tensor) -> Tensor:
        """A tensor of shape [B, T, E], [T, B, E] or [T, E] as [B, T, E]."""
        if tensor.dim() == 2:
            return tensor[None]
        return tensor if self.module.batch_first else tensor.transpose(0, 1)

    def _as_input(self, tensor_BTE: Tensor, query: Tensor) -> Tensor:
        """The inverse of `_batch_first`, in the layout of the call's query."""
        if query.dim() == 2:
            return tensor_BTE[0]
        return tensor_BTE if self.module.batch_first else tensor_BTE.transpose(0, 1)

    def _mask(self, key_padding_mask: Tensor | None, attn_mask: Tensor | None, query: Tensor) -> Tensor | None:
        """Both masks combined, [B or 1, 1, T or 1, T]: bool, True where a query may attend to a key, or additive.

        Args:
            key_padding_mask: [B, T], or [T] for an input without a batch.
            attn_mask: [T, T].
            query: the query of the call.
        """
        size = self._batch_first(query).shape[:2]
        padding_size = size if query.dim() == 3 else size[1:]
        shown: Tensor | None = None
        added: Tensor | None = None
        for name, mask, expected in (
            ("key_padding_mask", key_padding_mask, padding_size),
            ("attn_mask", attn_mask, (size[1], size[1])),
        ):
            if mask is None:
                continue
            self._check_mask(name, mask, tuple(expected))
            mask_B1TT = mask[None, None] if name == "attn_mask" else mask.view(-1, 1, 1, size[1])
            if mask.is_floating_point() and not self.masks.only_hides(mask):
                added = mask_B1TT if added is None else added + mask_B1TT
            else:
                # In torch's bool masks, True hides a key.
                shows = mask_B1TT == 0 if mask.is_floating_point() else ~mask_B1TT
                shown = shows if shown is None else shown & shows
        if added is None or shown is None:
            return shown if added is None else added
        return torch.where(shown, added, -math.inf)

    def _check_mask(self, name: str, mask: Tensor, expected: tuple[int, ...]) -> None:
        if name == "attn_mask" and mask.dim() == 3:
            raise AttachError(
                f"{self.name}: attn_mask of shape {tuple(mask.shape)} has a mask for each head; guidance needs one for "
                "all heads, [T, T], and key_padding_mask for padding"
            )
        if mask.shape != expected or not (mask.dtype == torch.bool or mask.is_floating_point()):
            raise AttachError(
                f"{self.name}: {name} must be of shape {expected}, bool or float, not {tuple(mask.shape)}, {mask.dtype}"
            )


class _AdditiveMasks:
    """Finds additive masks that only hide keys, such as those that nn.TransformerEncoder makes from bool masks.

    As bool masks, they are supported by every backend. Reading their values synchronizes with the GPU, so this is done
    once per pass and mask. Under torch.compile, values cannot be read, and the masks stay additive.
    """

    def __init__(self) -> None:
        # Keep the mask too, so that no other tensor can get its id during the pass.
        self.seen: dict[int, tuple[Tensor, bool]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"seen": {}}

    def forget(self) -> None:
        """Forget all masks, at the start of a pass."""
        self.seen = {}

    def only_hides(self, mask: Tensor) -> bool:
        """Whether all values are 0 or minus infinity, and the mask does not require gradients."""
        if mask.requires_grad or torch.compiler.is_compiling():
            return False
        if id(mask) not in self.seen:
            self.seen[id(mask)] = mask, bool(((mask == 0) | (mask == -math.inf)).all())
        return self.seen[id(mask)][1]


def _same(query: Tensor, key: Tensor) -> bool:
    """Whether these are one tensor or equal views of one, such as ``x.transpose(0, 1)`` written twice."""
    if query is key or torch.compiler.is_compiling():
        return query is key
    return query.data_ptr() == key.data_ptr() and query.shape == key.shape and query.stride() == key.stride()


def _no_fused_layer(module: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook that does nothing: its presence disables the fused layer."""


def has_multihead(model: nn.Module) -> bool:
    """Whether a model is or contains nn.MultiheadAttention."""
    return any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


def _guidable_modules(model: nn.Module, purpose: Purpose) -> dict[str, nn.MultiheadAttention]:
    """The model's nn.MultiheadAttention modules by name, in order."""
    kind = type(model).__name__
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerDecoderLayer):
            raise AttachError(
                f"{kind} cannot be {purpose.participle}: {name or 'it'} is a decoder layer, and {purpose.name} is "
                f"for bidirectional encoders; {purpose.verb} the encoder alone"
            )
    modules = {
        name or kind: module for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
    }
    first_name, first = next(iter(modules.items()))
    for name, module in modules.items():
        if isinstance(taken := module.__dict__.get("forward"), MultiheadForward):
            raise AttachError(f"this {kind} {taken.processor.purpose.taken}")
        reason = _reason_against(module)
        if reason is not None:
            raise AttachError(f"{kind} cannot be {purpose.participle}: {name} {reason}")
        if module.num_heads != first.num_heads:
            raise AttachError(
                f"{kind} cannot be {purpose.participle}: {first_name} has {first.num_heads} heads and {name} has "
                f"{module.num_heads}; {purpose.name} needs the same number in all layers"
            )
    return modules


def _reason_against(module: nn.MultiheadAttention) -> str | None:
    """Why a module cannot be guided, or None if it can."""
    if type(module).forward is not nn.MultiheadAttention.forward or "forward" in module.__dict__:
        return f"({type(module).__name__}) has its own forward in place of nn.MultiheadAttention's"
    if module.bias_k is not None or module.bias_v is not None:
        return "has add_bias_kv=True, which adds a key that is not a position"
    if module.add_zero_attn:
        return "has add_zero_attn=True, which adds a key that is not a position"
    for option in ("kdim", "vdim"):
        size = getattr(module, option)
        if size != module.embed_dim:
            return f"has {option}={size} and embed_dim={module.embed_dim}: it is not self-attention"
    return None
