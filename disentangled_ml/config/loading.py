"""From files and arguments to the tree of a configuration.

Order, later wins: ``conf/config.yaml`` -> the chosen file of each group (``backbone=resnet`` takes ``conf/backbone/resnet.yaml``)
-> ``conf/experiment/NAME.yaml`` (which may choose groups too, under ``choices``; several, as ``experiment=icassp2020,category``,
one after the other) -> ``key=value`` arguments. Then interpolations are resolved, what is still ``???`` is an error, limits and
rules across fields are checked, and the tree is read-only. Commands other than ``train`` have one file and no groups.

Arguments are ``key=value`` or ``--key=value`` (what a W&B agent passes); everything behind the first ``=`` is the value;
``None``, ``True`` and lists may be written as in Python, numbers as in YAML 1.2. An unknown key or choice is an error that names
the legal ones.
"""

import difflib
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from disentangled_ml.config.errors import ConfigError
from disentangled_ml.config.fields import check_value
from disentangled_ml.config.yaml12 import parse_yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("backbone", "frontend", "augmentation", "mask", "loss", "data", "trainer", "experiment")
CHOICES = tuple(f"choices.{group}" for group in GROUPS)  # what the tree calls them
Arguments = list[tuple[str, str]]


def conf_file(schema: type) -> Path:
    """Return the file of a command's defaults, which is named after its schema.

    >>> class HtmlReportConfig: ...
    >>> conf_file(HtmlReportConfig).name
    'html_report.yaml'
    """
    name = re.sub("(?<=[a-z])(?=[A-Z])", "_", schema.__name__.removesuffix("Config")).lower()
    return CONF / f"{getattr(schema, 'FILE', name)}.yaml"


def load_config(schema: type, argv: list[str]) -> DictConfig:
    """Build the read-only configuration of a command from its schema, its file in ``conf/`` and arguments.

    A schema may have ``choose``, which merges what arguments choose before the others are merged, and ``check``, its rules across
    fields, as may each of its parts. Raises ConfigError for an unknown or ill-typed key, or a value that is missing or not legal.
    """
    arguments = [split_argument(argument) for argument in argv]
    tree = merge(OmegaConf.structured(schema), read_yaml(conf_file(schema)))
    if hasattr(schema, "choose"):
        tree, arguments = schema.choose(tree, arguments)
    for key, value in arguments:
        check_key(tree, key)
        tree = merge(tree, parse_argument(tree, key, value), f"{key}={value}")
    try:
        OmegaConf.resolve(tree)
    except OmegaConfBaseException as error:
        raise explained(error, tree) from error
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}: give it as {missing[0]}=VALUE")
    check_tree(tree)
    OmegaConf.set_readonly(tree, True)
    return tree


def split_argument(argument: str) -> tuple[str, str]:
    """Split an argument at its first ``=``.

    >>> split_argument("--resume=epoch=3.ckpt")
    ('resume', 'epoch=3.ckpt')
    """
    key, equals, value = argument.removeprefix("--").partition("=")
    if not equals or not key:
        raise ConfigError(f"argument {argument!r} is not of the form key=value")
    return key, value


def parse_argument(tree: DictConfig, key: str, value: str) -> dict[str, Any]:
    """Parse an argument into a part of the tree; a Python ``None`` becomes null.

    The value of a key that holds text is taken as it is: ``run_name=007`` is no number, ``shards=@home`` no YAML error.
    """
    path = key.split(".", 1) if has_open_keys(tree, key) else key.split(".")
    parent = OmegaConf.select(tree, ".".join(path[:-1])) if path[1:] else tree
    is_text = get_type_hints(OmegaConf.get_type(parent)).get(path[-1]) in (str, str | None) or (
        has_open_keys(tree, key) and get_type_hints(OmegaConf.get_type(tree))[path[0]] == dict[str, str]
    )
    if value in ("", "None", "null"):
        part: Any = None
    elif is_text:
        part = value
    else:
        try:
            part = parse_yaml(value)
        except YAMLError as error:
            raise ConfigError(f"{key}={value}: {str(error).splitlines()[0]}") from error
    for name in reversed(path):
        part = {name: part}
    return part


def merge(tree: DictConfig, part: DictConfig | dict[str, Any], given: str = "") -> DictConfig:
    """Merge some keys into a tree with a schema, strictly; ``given``, the argument that they are from, is for messages.

    Raises ConfigError for an unknown key or a value of another type.
    """
    try:
        part = OmegaConf.create(part)
        check_types(tree, OmegaConf.to_container(part))
        return OmegaConf.merge(tree, part)
    except OmegaConfBaseException as error:
        raise explained(error, tree, given) from error


def explained(error: OmegaConfBaseException, tree: DictConfig, given: str = "") -> ConfigError:
    """Turn an error of OmegaConf into one that names the key, and what is legal beside it."""
    key = error.full_key or given
    hint = legal_keys(tree, key) if isinstance(error, ConfigKeyError) else ""
    return ConfigError(f"{key}: {str(error).splitlines()[0]}{hint}".removeprefix(": "))


def check_types(tree: DictConfig, part: dict[str, Any], parent: str = "") -> None:
    """Check that numbers and truth values are written as such; OmegaConf would also take Python's ways, ``1_000`` and ``yes``."""
    schema = OmegaConf.get_type(tree)
    hints = get_type_hints(schema) if is_dataclass(schema) else {}
    for name, value in part.items():
        key = f"{parent}{name}"
        is_part = isinstance(value, dict) and isinstance(tree.get(name), DictConfig)
        if is_part and is_dataclass(OmegaConf.get_type(tree, name)):
            check_types(tree[name], value, f"{key}.")
        else:
            check_type(hints.get(name), value, key)


def check_type(hint: Any, value: Any, key: str) -> None:
    """Check one value, and what it holds; interpolations are left to OmegaConf."""
    if value is None and (hint in LITERALS or hint is str):
        raise ConfigError(f"{key} is empty: give it as {key}=VALUE")
    kinds = [each for each in get_args(hint) if each is not NoneType]
    if get_origin(hint) not in (list, dict) and len(kinds) == 1:  # of `int | None`
        hint, kinds = kinds[0], list(get_args(kinds[0]))
    if isinstance(value, dict) and kinds:
        for name, part in value.items():
            check_type(kinds[-1], part, f"{key}.{name}")
    elif isinstance(value, list) and kinds:
        for part in value:
            check_type(kinds[-1], part, key)
    elif get_origin(hint) is list and value is not None and not is_open(value):
        raise ConfigError(f"{key}={value} is not a list: write it as {key}=[A,B]")
    elif hint in LITERALS and value is not None and not is_open(value):
        types, called = LITERALS[hint]
        if type(value) not in types:
            raise ConfigError(f"{key}={value} is not {called}")
        if hint is float and type(value) is int and abs(value) > sys.float_info.max:
            raise ConfigError(f"{key}={value} is too large")


def is_open(value: Any) -> bool:
    """Return whether a value is yet to be given, or taken from another key."""
    return isinstance(value, str) and ("${" in value or value == "???")


LITERALS = {int: ((int,), "a whole number"), float: ((int, float), "a number"), bool: ((bool,), "true or false")}


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML file. Raises ConfigError if it is none."""
    try:
        return OmegaConf.create(parse_yaml(path.read_text(encoding="utf-8")) or {})
    except YAMLError as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error


def group_choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def load_group(group: str, choice: str) -> DictConfig:
    """Load the file of a choice. Raises ConfigError if there is none, naming those there are; or if it is no YAML."""
    if choice not in group_choices(group):
        raise ConfigError(f"{group}={choice} is unknown: choose one of {', '.join(group_choices(group))}")
    return read_yaml(CONF / group / f"{choice}.yaml")


def merge_groups(tree: DictConfig, arguments: Arguments) -> tuple[DictConfig, Arguments]:
    """Merge the chosen file of each group and the experiment; return the tree and the arguments that choose none."""
    arguments = [(key.removeprefix("choices.") if key in CHOICES else key, value) for key, value in arguments]
    chosen = {key: value for key, value in arguments if key in GROUPS}
    names = chosen.get("experiment", tree.choices.experiment).split(",")
    experiment = OmegaConf.merge(*(load_group("experiment", name) for name in names))
    choices = {**tree.choices, **experiment.get("choices", {}), **chosen}
    for group in choices:
        if group not in GROUPS:
            raise ConfigError(f"choices.{group} is unknown: the groups are {', '.join(GROUPS)}")
        if group != "experiment":
            chosen_file = load_group(group, choices[group])
            chosen_file.pop("corpus", None)  # of a data set: for prepare alone
            tree = merge(tree, {group: chosen_file})
    tree = merge(merge(tree, experiment), {"choices": choices})
    return tree, [(key, value) for key, value in arguments if key not in GROUPS]


def has_open_keys(tree: DictConfig, key: str) -> bool:
    """Tell whether a key lies in a mapping whose keys are named by the data, dots and all."""
    field = OmegaConf.get_type(tree).__dataclass_fields__.get(key.partition(".")[0])
    return field is not None and "." in key and "open" in field.metadata


def check_key(tree: DictConfig, key: str) -> None:
    """Raise a ConfigError for a key that the schema does not know, with the legal ones."""
    if has_open_keys(tree, key):
        return
    node: Any = tree
    path = key.split(".")
    for depth, part in enumerate(path):
        if not isinstance(node, DictConfig) or part not in list(node.keys()):
            raise ConfigError(f"key {key!r} is unknown" + legal_keys(tree, ".".join(path[: depth + 1])))
        if depth < len(path) - 1:
            node = node[part]


def legal_keys(tree: DictConfig, key: str) -> str:
    """Name the keys beside ``key``, the likely one first."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(tree, parent) if parent else tree
    if not isinstance(node, DictConfig):
        return f"; {parent} has no keys of its own"
    legal = [f"{parent}.{k}" if parent else str(k) for k in node]
    if not parent and "choices" in node:
        legal += [group for group in GROUPS if group not in legal]
    close = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in legal], n=1)
    hint = f" (did you mean {close[0]}?)" if close and close[0] != last else ""
    return f"{hint}; legal here: {', '.join(legal)}"


def check_tree(tree: DictConfig, parent: str = "") -> None:
    """Check the limits of all fields, and the rules across fields. Raises ConfigError, naming the key, the value and what is legal."""
    schema = OmegaConf.get_type(tree)
    limits = {field.name: field.metadata for field in fields(schema)} if is_dataclass(schema) else {}
    for name, value in tree.items():
        key = f"{parent}{name}"
        if isinstance(value, DictConfig):
            check_tree(value, f"{key}.")
        else:
            check_value(key, value, limits.get(name, {}))
    if hasattr(schema, "check"):
        schema.check(tree)
