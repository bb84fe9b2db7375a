"""All commands: ``disentangled NAME key=value ...``, the same as ``python -m disentangled_ml NAME key=value ...``."""

import difflib
import sys

from disentangled_ml.commands import schemas
from disentangled_ml.config import TrainConfig
from disentangled_ml.console import HELP, purpose, run_command

COMMANDS = {  # in the order of the help: the module, whose main is run, and the schema of its keys
    "music": ("disentangled_ml.commands.music", schemas.MusicConfig),
    "scan": ("disentangled_ml.commands.scan", schemas.ScanConfig),
    "demo": ("disentangled_ml.commands.demo", schemas.DemoConfig),
    "prepare": ("disentangled_ml.prepare", schemas.PrepareConfig),
    "train": ("disentangled_ml.train", TrainConfig),
    "tags_model": ("disentangled_ml.commands.tags_model", schemas.TagsModelConfig),
    "evaluate": ("disentangled_ml.evaluate", schemas.EvaluateConfig),
    "table": ("disentangled_ml.commands.table", schemas.TableConfig),
    "learning_curve": ("disentangled_ml.commands.learning_curve", schemas.LearningCurveConfig),
    "html_report": ("disentangled_ml.commands.html_report", schemas.HtmlReportConfig),
    "embed": ("disentangled_ml.commands.embed", schemas.EmbedConfig),
    "search": ("disentangled_ml.commands.search", schemas.SearchConfig),
    "serve": ("disentangled_ml.commands.serve", schemas.ServeConfig),
    "export": ("disentangled_ml.commands.export", schemas.ExportConfig),
    "listening_results": ("disentangled_ml.commands.listening_results", schemas.ListeningResultsConfig),
    "fit_weights": ("disentangled_ml.commands.fit_weights", schemas.FitWeightsConfig),
    "human_triplets": ("disentangled_ml.commands.human_triplets", schemas.HumanTripletsConfig),
    "trajectory": ("disentangled_ml.commands.trajectory", schemas.TrajectoryConfig),
    "changes": ("disentangled_ml.commands.changes", schemas.ChangesConfig),
    "tempo_check": ("disentangled_ml.commands.tempo_check", schemas.TempoCheckConfig),
}


def overview() -> str:
    lines = ["usage: disentangled NAME key=value ...", ""]
    for name, (module, _) in COMMANDS.items():
        lines.append(f"  {name:<18} {purpose(module).split(':')[0]}")
    return "\n".join([*lines, "", "disentangled NAME --help lists the keys of a command."])


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names, by default of those that the program was started with."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or [""]
    if name in HELP:
        sys.stdout.write(overview() + "\n")
    elif name in COMMANDS:
        run_command(*COMMANDS[name], arguments)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SystemExit((f"error: command {name!r} is unknown{hint}\n\n" if name else "") + overview())


if __name__ == "__main__":
    main()
