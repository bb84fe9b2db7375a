"""The error of a configuration that cannot be used."""


class ConfigError(ValueError):
    """A wrong configuration: the message names the key and the value, and what would be right."""
