"""Mask passwords and access tokens in what commands write and print."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

# user:password@ or token@ in a URL; user:password@host elsewhere, where a host begins with a letter, since
# `0:next@1` is an assignment of heads.
_LOGIN = re.compile(r"(?<=//)[^\s/@\"'<>]+(?=@)|(?<![^\s/=\"'>])[^\s/:@\"'<>=]+:[^\s/@\"'<>]+(?=@[A-Za-z])")
_NAME = r"[\w-]*(?:token|password|passwd|secret|api[_-]?key|access[_-]?key|signature)"
# token=..., also in the query of a URL and after --set.
_GIVEN = re.compile(rf"(?i)(?<![\w-])({_NAME}=)[^\s&\"'<>]+")
# Tokens by their form: of the Hugging Face hub, GitHub, GitLab, and keys that begin with sk-. A name such as
# hf_wikipedia_2024 or sk-wikipedia-20240101 (Slovak) has no long mix of letters.
_TOKEN = re.compile(
    r"(?<![\w-])(?:(?:gh[pousr]_|github_pat_|glpat-)\w[\w-]{15,}"
    r"|(?:hf_|sk-(?=[\w-]*\d)[\w-]*?)(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{16}[\w-]*)"
)
_VARIABLE = re.compile(r"(?i)(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)$")
# A shorter value may be any word.
_SHORTEST = 8


def masked(text: str) -> str:
    """Replace the secrets in a text by `***`.

    Secrets are logins in URLs and paths, values of arguments that are named like secrets, access tokens of known
    forms, and the values of environment variables that are named like secrets, such as HF_TOKEN.
    """
    # Figures have thousands of short texts.
    for name, value in os.environ.items() if len(text) >= _SHORTEST else ():
        if len(value) >= _SHORTEST and _VARIABLE.search(name):
            text = text.replace(value, MASK)
    if "@" in text:
        text = _LOGIN.sub(MASK, text)
    return _TOKEN.sub(MASK, _GIVEN.sub(rf"\g<1>{MASK}", text))


def all_masked(value: Any) -> Any:
    """A copy of nested lists and mappings, with every text masked, and values of keys that are named like secrets."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, list | tuple):
        return [all_masked(item) for item in value]
    if isinstance(value, Mapping):
        return {
            all_masked(key): MASK
            if item and re.fullmatch(f"(?i){_NAME}", str(key)) and isinstance(item, str)
            else all_masked(item)
            for key, item in value.items()
        }
    return value


def has_masked(value: Any) -> bool:
    """Whether a text in nested lists and mappings is, or has, a masked secret."""
    if isinstance(value, list | tuple | dict):
        return any(map(has_masked, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and MASK in value
