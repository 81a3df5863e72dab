"""Models made of `nn.MultiheadAttention`, such as `nn.TransformerEncoder`.

Each guided module gets a forward of its own in place of its class's. That one hands a call to the module's processor,
and to the class's forward wherever guidance does not have to change the computation: then output, weights and dropout
are those of the unguided module to the last bit.
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
    """A model that is, or holds, modules of nn.MultiheadAttention; see `attention_guidance.adapters.base.Adapter`.

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
            # Without gradients nn.TransformerEncoderLayer goes around its modules, but not if one of them has a hook.
            self.hooks.append(module.register_forward_pre_hook(_no_fused_layer))
        for encoder in self.model.modules():
            # Nested tensors are for the fused layers alone.
            if isinstance(encoder, nn.TransformerEncoder) and encoder.use_nested_tensor:
                encoder.use_nested_tensor = False
                self.nesting.append(encoder)

    def detach(self) -> None:
        """See `Adapter`."""
        for forward in self.forwards:
            forward.removed = True
            # What the user has put there since, around ours perhaps, stays.
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


class MultiheadForward:
    """The forward of one guided nn.MultiheadAttention.

    Args:
        module: the attention.
        name: its name within the model.
        processor: what answers its calls.
        masks: what is known of the masks of this pass.
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
            AttachError: in a guided pass, the call is no bidirectional self-attention with one mask for all heads, or
                the second of its pass.
        """
        own: list[Result] = []

        def unguided() -> Result:
            arguments = key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            own.append(nn.MultiheadAttention.forward(self.module, query, key, value, *arguments))
            return own[0]

        # Something may have been put around this forward, which is removed beneath it.
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
            # These are in the module's own shapes already.
            return own[0]
        # As torch: by the weights, without a call of out_proj.
        out = functional.linear(out_BTHD.flatten(2), self.module.out_proj.weight, self.module.out_proj.bias)
        return self._as_input(out, query), None

    def _check_call(self, query: Tensor, key: Tensor, is_causal: bool) -> None:
        purpose = self.processor.purpose
        if not _same(query, key):
            raise AttachError(
                f"{self.name} was called with a key that is not its query, and {purpose.name} is for self-attention"
                + ("; name the layers to guide in heads= so that this one is left out" if purpose == GUIDING else "")
            )
        if is_causal:
            raise AttachError(f"{self.name} attends causally; {purpose.name} is for bidirectional encoders")
        if query.is_nested:
            raise AttachError(f"{self.name} was given a nested tensor; {purpose.name} needs padded ones and a mask")
        # What a backward pass computes again is no second call; torch.compile does not trace it.
        if not in_backward():
            if self.called:
                held = ": its guidance.loss() after both calls, or within=, holds both" if purpose == GUIDING else ""
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
        """[B, T, E] of a tensor that is so, or [T, B, E], or [T, E]."""
        if tensor.dim() == 2:
            return tensor[None]
        return tensor if self.module.batch_first else tensor.transpose(0, 1)

    def _as_input(self, tensor_BTE: Tensor, query: Tensor) -> Tensor:
        """The opposite of `_batch_first`, in the layout of the call's query."""
        if query.dim() == 2:
            return tensor_BTE[0]
        return tensor_BTE if self.module.batch_first else tensor_BTE.transpose(0, 1)

    def _mask(self, key_padding_mask: Tensor | None, attn_mask: Tensor | None, query: Tensor) -> Tensor | None:
        """One mask of both, [B or 1, 1, T or 1, T]: bool, True where a query may attend to a key, or additive.

        Args:
            key_padding_mask: [B, T], or [T] for an input without a batch.
            attn_mask: [T, T].
            query: the call's.
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
                # In torch's bool masks, True is what is hidden.
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
    """Tells the additive masks that only show and hide, as those that nn.TransformerEncoder makes of bool ones.

    As bool masks they can be served by every backend. It takes a look at their numbers, for which a GPU has to be
    waited for: once a pass for each mask. Under torch.compile there is no looking, and they stay additive.
    """

    def __init__(self) -> None:
        # With the mask itself, so that no other one can get its id within the pass.
        self.seen: dict[int, tuple[Tensor, bool]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"seen": {}}

    def forget(self) -> None:
        """A pass begins."""
        self.seen = {}

    def only_hides(self, mask: Tensor) -> bool:
        """Whether all numbers are 0 or minus infinity, and are not being learned."""
        if mask.requires_grad or torch.compiler.is_compiling():
            return False
        if id(mask) not in self.seen:
            self.seen[id(mask)] = mask, bool(((mask == 0) | (mask == -math.inf)).all())
        return self.seen[id(mask)][1]


def _same(query: Tensor, key: Tensor) -> bool:
    """Whether these are one tensor, or views of one that are alike, as ``x.transpose(0, 1)`` written twice."""
    if query is key or torch.compiler.is_compiling():
        return query is key
    return query.data_ptr() == key.data_ptr() and query.shape == key.shape and query.stride() == key.stride()


def _no_fused_layer(module: nn.Module, args: tuple[Any, ...]) -> None:
    """A hook that is only there to be seen."""


def has_multihead(model: nn.Module) -> bool:
    """Whether there is a module of nn.MultiheadAttention in a model."""
    return any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


def _guidable_modules(model: nn.Module, purpose: Purpose) -> dict[str, nn.MultiheadAttention]:
    """The model's modules of nn.MultiheadAttention by name, in order."""
    kind = type(model).__name__
    for name, module in model.named_modules():
        if isinstance(module, nn.TransformerDecoderLayer):
            raise AttachError(
                f"{kind} cannot be {purpose.participle}: {name or 'it'} is a decoder's layer, and {purpose.name} is "
                f"for bidirectional encoders; {purpose.verb} the encoder alone"
            )
    modules = {
        name or kind: module for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
    }
    first_name, first = next(iter(modules.items()))
    for name, module in modules.items():
        if isinstance(module.__dict__.get("forward"), MultiheadForward):
            raise AttachError(f"this {kind} is guided already; call remove() on its guidance first")
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
    """Why a module cannot be guided, None if it can."""
    if type(module).forward is not nn.MultiheadAttention.forward or "forward" in module.__dict__:
        return f"({type(module).__name__}) has a forward of its own in place of nn.MultiheadAttention's"
    if module.bias_k is not None or module.bias_v is not None:
        return "has add_bias_kv=True: a key that is no position"
    if module.add_zero_attn:
        return "has add_zero_attn=True: a key that is no position"
    for option in ("kdim", "vdim"):
        size = getattr(module, option)
        if size != module.embed_dim:
            return f"has {option}={size} and embed_dim={module.embed_dim}: it is no self-attention"
    return None
