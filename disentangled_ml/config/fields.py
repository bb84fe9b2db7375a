"""Fields of a schema with their limits: ``margin: float = at_least(0)``, ``mean: str = one_of("all", "violating")``."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from disentangled_ml.config.errors import ConfigError

# Of a mapping whose keys are named by the data, such as its conditions
OPEN_KEYS = {"open": True}


def at_least(least: float) -> Any:
    return dataclasses.field(metadata={"least": least})


def between(least: float, most: float) -> Any:
    """Return the field of a number with both limits; an upper one is what a machine or library can do, far beyond what makes sense."""
    return dataclasses.field(metadata={"least": least, "most": most})


def one_of(*legal: str) -> Any:
    return dataclasses.field(metadata={"legal": legal})


def check_value(key: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Check a value against the limits of its field; None has none. Raises ConfigError, naming the key, the value and what is legal.

    >>> check_value("loss.margin", 0.1, {"least": 0})
    """
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value} is not a finite number")
    if "legal" in limits and value not in limits["legal"]:
        raise ConfigError(f"{key}={value} is not legal: choose one of {', '.join(limits['legal'])}")
    if "least" in limits and value < limits["least"]:
        raise ConfigError(f"{key}={value} is too small: it must be at least {limits['least']}")
    if "most" in limits and value > limits["most"]:
        raise ConfigError(f"{key}={value} is too large: it must be at most {limits['most']}")
