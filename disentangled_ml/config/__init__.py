"""Configuration: the schema of each command, its YAML files and ``key=value`` arguments make one read-only tree.

A key is a field of a dataclass with its type and limits (``fields.py``); its default, unit and meaning stand in ``conf/``. What
training takes is in ``schema.py``, the keys of all other commands in ``commands/schemas.py``. ``loading.py`` merges the layers.
"""

from disentangled_ml.config.errors import ConfigError
from disentangled_ml.config.loading import load_config
from disentangled_ml.config.schema import TrainConfig

__all__ = ["ConfigError", "TrainConfig", "load_config"]
