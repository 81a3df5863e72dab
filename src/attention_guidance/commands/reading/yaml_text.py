"""Parse YAML from outside: settings in files and in flags."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of nested ones stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """See `yaml.SafeLoader`."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise ComposerError(
                None, None, f"the alias *{event.anchor} is not read; write its value out", event.start_mark
            )
        return super().compose_node(parent, index)


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values; tags that would create Python objects are refused.

    Raises:
        ValueError: The text is not YAML, has aliases, or a value that Python cannot read.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes, integers and dates that Python cannot read
        raise ValueError(" ".join(str(error).split())) from error
    except (LookupError, AttributeError, TypeError, OverflowError) as error:  # of its constructors, as for `!!int ''`
        raise ValueError("a value does not suit its tag") from error
