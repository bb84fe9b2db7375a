"""YAML by the core schema of its version 1.2: ``010`` is 10, ``12:30``, ``1_000``, ``yes`` and ``on`` are text, ``1e3`` is a float."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError


class Yaml12Loader(yaml.SafeLoader):
    """A loader whose numbers and truth values are those of YAML 1.2, and which takes no key twice."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012 -- filled below, in place of those of YAML 1.1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Construct a mapping. Raises ConstructorError if it has a key twice."""
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ConstructorError(None, None, f"found duplicate key {twice[0]}", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Construct a whole number: decimal whatever its zeros, ``0o`` octal or ``0x`` hexadecimal.

        Raises ConstructorError if it has more digits than Python reads.
        """
        try:
            return int(node.value, 0 if node.value.startswith(("0o", "0x")) else 10)
        except ValueError as error:
            raise ConstructorError(None, None, str(error), node.start_mark) from error


for kind, pattern in {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}.items():
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})\\Z"), None)
Yaml12Loader.add_constructor("tag:yaml.org,2002:int", Yaml12Loader.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """Parse a document. Raises yaml.YAMLError if it is none.

    >>> parse_yaml("[010, 1e3, 12:30, 1_000, yes, True, ~, 0x10]")
    [10, 1000.0, '12:30', '1_000', 'yes', True, None, 16]
    """
    return yaml.load(text, Loader=Yaml12Loader)
