"""The kinds of models that can be guided.

`call` says what a host is and what a call of attention holds; `interface` are the models of transformers.
"""

from torch import nn

from attention_guidance.errors import AttachError
from attention_guidance.hosts.call import Host
from attention_guidance.hosts.interface import InterfaceHost


def host_of(model: nn.Module) -> Host:
    """The host that a model is.

    Raises:
        AttachError: it is none.
    """
    if hasattr(model, "set_attn_implementation"):
        return InterfaceHost(model)
    raise AttachError(f"{type(model).__name__} is not a model of transformers; guide() needs a PreTrainedModel")
