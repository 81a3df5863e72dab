"""A tokenizer so small that its tokens can be counted by hand."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# Every letter is a token; words that are in the vocabulary whole are one.
WHOLE = ["the", "king", "saw", "him"]


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Letters, and some whole words, between [CLS] and [SEP]."""
    letters = list("abcdefghijklmnopqrstuvwxyz.'")
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WHOLE, *letters, *(f"##{c}" for c in letters)]
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        mask_token="[MASK]", model_max_length=40,
    )  # fmt: skip
