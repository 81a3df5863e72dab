"""The kinds of models that can be guided.

`call` says what a host is and what a call of attention holds; `interface` are the models of transformers, `multihead`
those made of torch's nn.MultiheadAttention.
"""

from torch import nn

from attention_guidance.errors import AttachError
from attention_guidance.hosts.call import Host
from attention_guidance.hosts.interface import InterfaceHost
from attention_guidance.hosts.multihead import MultiheadHost, has_multihead


def host_of(model: nn.Module) -> Host:
    """The host that a model is.

    Raises:
        AttachError: it is none.
    """
    # What torch.compile returns stands for the model within it.
    model = getattr(model, "_orig_mod", model)
    if hasattr(model, "set_attn_implementation"):
        return InterfaceHost(model)
    kind = type(model).__name__
    for name, module in model.named_modules():
        if hasattr(module, "set_attn_implementation"):
            raise AttachError(
                f"{kind} cannot be guided, but its {name} ({type(module).__name__}) is a model of transformers: guide "
                "that one, with within= the whole, whose loss it then joins"
            )
    if has_multihead(model):
        return MultiheadHost(model)
    raise AttachError(
        f"{kind} cannot be guided: guide() takes models of transformers (PreTrainedModel), and modules that are or "
        "hold torch's nn.MultiheadAttention, such as nn.TransformerEncoder"
    )
