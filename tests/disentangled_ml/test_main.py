"""The door of all commands: ``disentangled NAME`` and ``python -m disentangled_ml NAME``."""

import subprocess
import sys
import tomllib
from pkgutil import resolve_name

import pytest

from disentangled_ml import console
from disentangled_ml.__main__ import COMMANDS, main, overview
from disentangled_ml.config.loading import CONF

ROOT = CONF.parent
DOORS = ("train", "evaluate", "prepare")  # which are modules to run as well
NO_TORCH = """
import sys
from disentangled_ml.__main__ import main
try:
    main({arguments})
finally:
    loaded = {{"torch", "numpy", "pytorch_lightning"}} & set(sys.modules)
    assert not loaded, loaded
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


def test_every_command_is_listed_with_its_module_and_its_file():
    files = {path.stem for path in (ROOT / "disentangled_ml" / "commands").glob("*.py")} - {"__init__", "schemas"}
    assert set(COMMANDS) == {*files, *DOORS}
    for name, (module, schema) in COMMANDS.items():
        assert module == f"disentangled_ml.{name if name in DOORS else f'commands.{name}'}"
        assert schema.__name__.lower() == f"{name.replace('_', '')}config"


def test_the_script_is_the_same_door():
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["disentangled"]
    assert resolve_name(script) is main


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_the_commands_one_line_each(capsys, word):
    main([word])
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert len(line) < 100
        assert not {"`", ":"} & set(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(capsys, name):
    main([name, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: disentangled {name} key=value ...\n\n{console.purpose(COMMANDS[name][0])}\n")
    assert f"``disentangled {name}" in out


def test_an_unknown_command_names_the_likely_one_and_all():
    with pytest.raises(SystemExit, match=r"error: command 'trian' is unknown \(did you mean train\?\)") as error:
        main(["trian", "backbone=conv"])
    assert str(error.value).endswith(overview())
    with pytest.raises(SystemExit, match="error: command 'xyzzy' is unknown\n"):
        main(["xyzzy"])


def test_no_command_shows_the_list_and_fails():
    with pytest.raises(SystemExit) as error:
        main([])
    assert error.value.code == overview()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["search", "--help"], ["train", "backbone=nope"], ["prepare"], ["table", "shard=x"]],
    ids=str,
)
def test_arguments_are_checked_before_anything_heavy_is_imported(arguments):
    done = run("-c", NO_TORCH.format(arguments=arguments))
    assert "Error" not in done.stderr
    assert (done.returncode != 0) == ("--help" not in arguments)


@pytest.mark.parametrize("module", [("disentangled_ml", "train"), ("disentangled_ml.train",)], ids=" ".join)
def test_both_ways_to_run_a_command_answer_alike(module):
    done = run("-m", *module, "backbone=nope")
    assert done.returncode == 1
    assert (
        done.stderr
        == "configuration error: backbone=nope is unknown: choose one of conv, inception, musicnn, resnet, se\n"
    )
    assert not done.stdout
