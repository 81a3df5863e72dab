"""A model whose heads all look at everything alike, and a tokenizer to count by hand."""

import pytest
from planted import uniform
from word_tokenizer import word_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


@pytest.fixture(scope="module")
def model():
    return uniform(vocab_size=80, num_attention_heads=2)  # heads of 16 channels
