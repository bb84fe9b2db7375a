"""What every command does at its edges: configuration in, messages on the screen, a clear word where it fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from omegaconf import DictConfig
from tqdm import tqdm

from disentangled_ml.config import CONF, GROUPS, ConfigError, group_choices, load_config
from disentangled_ml.processes import keep_freed_memory


def usage(name: str, command: str, purpose: str) -> str:
    """Describe a command: its purpose and every key with unit, legal values and default."""
    lines = [f"usage: python -m disentangled_ml.{command} key=value ...", "", purpose.strip(), ""]
    if name == "config":
        lines += ["Choices, each a file of conf/GROUP/:"]
        lines += [f"  {group}={'|'.join(group_choices(group))}" for group in GROUPS] + [""]
    return "\n".join([*lines, "Keys, with their defaults:", "", (CONF / f"{name}.yaml").read_text().strip()])


def run_command(main: Callable[[DictConfig], None], name: str, command: str, purpose: str) -> None:
    """Run a command on ``sys.argv``.

    Configuration and input errors (``ValueError``, ``OSError``) end it with one clear line and status 1; anything else is a
    fault of the program and shows its traceback.
    """
    argv = sys.argv[1:]
    if any(argument in ("-h", "--help", "help") for argument in argv):
        sys.stdout.write(usage(name, command, purpose) + "\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which instructions it was compiled for
    keep_freed_memory()
    try:
        main(load_config(name, argv))
    except ConfigError as error:
        close_bars()
        raise SystemExit(f"configuration error: {one_line(error)}") from error
    except (ValueError, OSError) as error:
        logging.getLogger(command).debug("", exc_info=True)
        close_bars()
        raise SystemExit(f"error: {one_line(error)}") from error
    except KeyboardInterrupt:
        raise SystemExit("interrupted: what is made is kept") from None


def close_bars() -> None:
    """Let progress bars end their line, so that what is said last stands last, in a line of its own."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def one_line(error: Exception) -> str:
    """Show an error, which may quote names with line breaks or say nothing, in one line.

    >>> one_line(ValueError("two\\nlines")), one_line(ValueError())
    ('two lines', 'ValueError')
    """
    return " ".join(str(error).split()) or type(error).__name__
