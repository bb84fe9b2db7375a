"""The edges of every command: arguments in, messages on the screen, one clear line where it fails."""

import ast
import importlib
import logging
import sys
from importlib.util import find_spec

from tqdm import tqdm

from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.config.loading import GROUPS, conf_file, group_choices
from disentangled_ml.processes import keep_freed_memory

HELP = ("-h", "--help", "help")


def purpose(module: str) -> str:
    """Return the docstring of a command's module, which is not imported for it: that takes seconds."""
    return ast.get_docstring(ast.parse(find_spec(module).loader.get_source(module)))


def usage(module: str, schema: type) -> str:
    """Describe a command: its purpose and every key with unit, legal values and default."""
    lines = [f"usage: disentangled {module.rpartition('.')[2]} key=value ...", "", purpose(module), ""]
    if "choices" in schema.__dataclass_fields__:
        lines += ["Choices, each a file of conf/GROUP/:"]
        lines += [f"  {group}={'|'.join(group_choices(group))}" for group in GROUPS] + [""]
    return "\n".join([*lines, "Keys, with their defaults:", "", conf_file(schema).read_text(encoding="utf-8").strip()])


def run_command(module: str, schema: type, argv: list[str]) -> None:
    """Run ``main`` of a command's module on the configuration that its arguments make.

    The module is imported once they are found to be right. Configuration and input errors (``ValueError``, ``OSError``) end the
    command with one clear line and status 1; anything else is a fault of the program and shows its traceback.
    """
    if any(argument in HELP for argument in argv):
        sys.stdout.write(usage(module, schema) + "\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # faiss tells which instructions it was compiled for.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    keep_freed_memory()
    try:
        config = load_config(schema, argv)
        importlib.import_module(module).main(config)
    except ConfigError as error:
        close_bars()
        raise SystemExit(f"configuration error: {one_line(error)}") from error
    except (ValueError, OSError) as error:
        logging.getLogger(module).debug("", exc_info=True)
        close_bars()
        raise SystemExit(f"error: {one_line(error)}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted: what is made is kept") from None


def close_bars() -> None:
    """End the lines of progress bars, so that the last message has a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def one_line(error: Exception) -> str:
    """Return an error's text, which may quote names with line breaks or be empty, as one line.

    >>> one_line(ValueError("two\\nlines")), one_line(ValueError())
    ('two lines', 'ValueError')
    """
    return " ".join(str(error).split()) or type(error).__name__
