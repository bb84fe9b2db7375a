"""Who may import whom, read from the folders and the sources: nothing is imported to find out.

A room is a folder or a file directly below ``disentangled_ml``, or one of the other packages as a whole; ``datamodules`` has
rooms of its own inside. Arrows between rooms must lead downwards: there is an order of the rooms in which every import points
to a lower one, that is, there is no circle. ``python tests/test_imports.py`` prints that order with the arrows and the lines.
"""

import ast
from collections import defaultdict
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("disentangled_ml", "datamodules", "callbacks")
MOST_ARROWS = {"": 110, "datamodules": 14}  # between the top-level rooms, and between those inside a package
ONE_PLACE = {  # a third-party framework and the files that may import it
    "webdataset": ("datamodules/shards/tar.py",),
    "fsspec": ("datamodules/shards/storage.py",),
    "madmom": ("datamodules/audio/tempo.py",),
    "soundfile": ("datamodules/audio/decoding.py",),
    "av": ("datamodules/audio/ffmpeg.py",),
    "mutagen": ("datamodules/corpora/folder/tags.py",),
    "symusic": ("datamodules/corpora/demo/*.py",),
    "nnAudio": ("disentangled_ml/network/frontends.py",),
    "wandb": ("disentangled_ml/training/tracking.py",),
    "mir_eval": ("disentangled_ml/evaluation/tempo_metrics.py", "disentangled_ml/trajectories/change_metrics.py"),
    "matplotlib": ("callbacks/figures.py",),
    "faiss": ("disentangled_ml/search/approximate.py",),
    "pyarrow": ("disentangled_ml/search/parquet.py",),
    "safetensors": ("disentangled_ml/network/exported.py",),
    "huggingface_hub": ("disentangled_ml/search/hub.py",),
    "jinja2": ("disentangled_ml/reporting/report_page.py",),
    "starlette": ("disentangled_ml/web/app.py", "disentangled_ml/web/routes/*.py"),
    "uvicorn": ("disentangled_ml/commands/serve.py",),
}
# The formulas: what they may import of ours, and no framework of configuration, training or logging.
FORMULAS = ("network", "objective", "evaluation", "baselines", "structures", "chunks", "limits")
NOT_IN_FORMULAS = ("pytorch_lightning", "lightning", "omegaconf", "wandb", "datamodules", "callbacks")
# Entry points that must start fast, and the frameworks that they must not import, not even late.
LIGHT = ("disentangled_ml.evaluate", "disentangled_ml.systems", "disentangled_ml.search.embedder")
HEAVY = ("pytorch_lightning", "lightning", "wandb", "matplotlib", "torchmetrics")
NEVER = ("musicnn", "tensorflow")  # of the one only files are read, for which the other is not needed
PEERS = ("pytorch_metric_learning", "benchmarks")  # of the benchmarks, which users do not install


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> set[str]:
    """Return what a source imports, anywhere in it; ``from a import b`` gives ``a.b``, relative names are resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: (1 if is_package else 0) - node.level or None]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            is_import = ast.unparse(node.func) in ("__import__", "import_module", "importlib.import_module")
            found |= {str(node.args[0].value)} if is_import else set()
    return found


def read_imports(root: Path) -> dict[str, set[str]]:
    """Map each module of ours to the names it imports."""
    return {
        module_name(path, root): imports_of(
            path.read_text(encoding="utf-8"), module_name(path, root), path.name == "__init__.py"
        )
        for package in OURS
        for path in sorted((root / package).rglob("*.py"))
    }


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def room_of(module: str, inside: str = "") -> str:
    """Return the top-level room of a module, or its room inside a package.

    >>> room_of("disentangled_ml.network.backbones.conv"), room_of("callbacks.figures"), room_of("datamodules.audio.tempo")
    ('disentangled_ml.network', 'callbacks', 'datamodules')
    >>> room_of("datamodules.audio.tempo", "datamodules")
    'datamodules.audio'
    """
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] in ("disentangled_ml", inside) else 1])


def module_arrows(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Map each module to those of ours that it imports."""

    def resolve(name: str) -> str:
        while name and name not in imports:
            name = name.rpartition(".")[0]
        return name

    return {module: {resolve(name) for name in names} - {"", module} for module, names in imports.items()}


def room_arrows(imports: dict[str, set[str]], inside: str = "") -> dict[str, set[str]]:
    """Map each room to the others that its files import: the top-level rooms, or those inside a package."""
    arrows: dict[str, set[str]] = defaultdict(set)
    for module, others in module_arrows(imports).items():
        if within(module, inside) or not inside:
            legal = {other for other in others if within(other, inside) or not inside}
            arrows[room_of(module, inside)] |= {room_of(other, inside) for other in legal} - {room_of(module, inside)}
    return dict(arrows)


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Return one circle of arrows, or nothing."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def strays(imports: dict[str, set[str]], framework: str, files: tuple[str, ...] = ()) -> list[str]:
    """Return the modules outside some files that import a framework."""
    allowed = [file.removesuffix(".py").replace("/", ".") for file in files]
    return [
        module
        for module, names in imports.items()
        if any(within(name, framework) for name in names) and not any(fnmatch(module, name) for name in allowed)
    ]


def foreign_to_formulas(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    rooms = [f"disentangled_ml.{room}" for room in FORMULAS]
    return [
        (module, name)
        for module, names in imports.items()
        if within(module, *rooms)
        for name in sorted(names)
        if within(name, *NOT_IN_FORMULAS) or (within(name, *OURS) and not within(name, *rooms))
    ]


def heavy_imports(imports: dict[str, set[str]], module: str) -> list[tuple[str, str]]:
    """Return who imports a heavy framework among a module and all that it imports of ours."""
    arrows, reached, left = module_arrows(imports), set(), [module]
    while left:
        if (current := left.pop()) not in reached:
            reached.add(current)
            left += arrows[current]
    return [(name, found) for name in sorted(reached) for found in imports[name] if within(found, *HEAVY)]


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return read_imports(ROOT)


def test_the_packages_are_read(imports):
    for module in ("disentangled_ml.objective.losses", "datamodules.corpora.manifest", "callbacks.figures"):
        assert imports[module]


def test_no_circle_among_modules(imports):
    assert not circles(module_arrows(imports))


@pytest.mark.parametrize("inside", MOST_ARROWS)
def test_arrows_between_rooms_lead_downwards_and_are_few(imports, inside):
    arrows = room_arrows(imports, inside)
    assert not circles(arrows)
    assert sum(map(len, arrows.values())) <= MOST_ARROWS[inside]


@pytest.mark.parametrize("framework", ONE_PLACE)
def test_one_framework_one_place(imports, framework):
    assert not strays(imports, framework, ONE_PLACE[framework])
    assert strays(imports, framework)


@pytest.mark.parametrize("framework", NEVER)
def test_what_is_never_imported(imports, framework):
    assert not strays(imports, framework)


@pytest.mark.parametrize("framework", PEERS)
def test_only_benchmarks_know_peers(imports, framework):
    assert not strays(imports, framework)


def test_formulas_know_no_framework_and_nothing_above_them(imports):
    assert not foreign_to_formulas(imports)


@pytest.mark.parametrize("module", LIGHT)
def test_what_evaluates_and_searches_needs_no_framework_of_training(imports, module):
    assert not heavy_imports(imports, module)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b", "a.b"),
        ("import a as c", "a"),
        ("from a.b import c", "a.b.c"),
        ("def f():\n    from a import b", "a.b"),
        ("if x:\n    import a", "a"),
        ("try:\n    import a\nexcept ImportError:\n    pass", "a"),
        ("from . import b", "pack.b"),
        ("from .b import c", "pack.b.c"),
        ("import importlib\nimportlib.import_module('a.b')", "a.b"),
    ],
)
def test_every_form_of_import_is_seen(source, expected):
    assert expected in imports_of(source, "pack.mod")


def test_relative_imports_of_a_package():
    assert imports_of("from .b import c\nfrom . import d", "pack", is_package=True) == {"pack.b.c", "pack.d"}
    assert imports_of("from ..x import c", "pack.sub.mod") == {"pack.x.c"}


@pytest.mark.parametrize(
    ("file", "line", "check"),
    [
        ("datamodules/streams.py", "import webdataset as wds", lambda i: strays(i, "webdataset", ("x.py",))),
        ("callbacks/x.py", "from matplotlib import pyplot", lambda i: strays(i, "matplotlib", ("callbacks/y.py",))),
        ("disentangled_ml/objective/losses.py", "import pytorch_lightning as pl", foreign_to_formulas),
        ("disentangled_ml/objective/losses.py", "from disentangled_ml.training import module", foreign_to_formulas),
        ("disentangled_ml/evaluation/probe.py", "from datamodules.shards.index import ShardIndex", foreign_to_formulas),
        ("disentangled_ml/evaluate.py", "import wandb", lambda i: heavy_imports(i, "disentangled_ml.evaluate")),
    ],
)
def test_the_checks_can_fail(tmp_path, file, line, check):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(f"def late():\n    {line}\n")
    assert check(read_imports(tmp_path))
    path.write_text("")
    assert not check(read_imports(tmp_path))


def test_a_circle_of_rooms_is_seen(tmp_path):
    for file, line in (
        ("search/a.py", "import disentangled_ml.web.b"),
        ("web/c.py", "import disentangled_ml.search.d"),
    ):
        (tmp_path / "disentangled_ml" / file).parent.mkdir(parents=True)
        (tmp_path / "disentangled_ml" / file).write_text(line)
    for file in ("web/b.py", "search/d.py"):
        (tmp_path / "disentangled_ml" / file).write_text("")
    found = read_imports(tmp_path)
    assert not circles(module_arrows(found))  # each module is innocent by itself
    assert circles(room_arrows(found))


def main() -> None:
    """Print rooms, arrows and lines, the lowest room first."""
    for inside in MOST_ARROWS:
        found = room_arrows(read_imports(ROOT), inside)
        for room in TopologicalSorter(found).static_order():
            below = sorted(found.get(room, ()))
            print(f"{room:28} {len(below):3}  {', '.join(below) or '-'}")
        print(f"{len(found)} rooms, {sum(map(len, found.values()))} arrows\n")
    lines = {
        folder: sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py"))
        for folder in (*OURS, "benchmarks", "tests")
    }
    print(f"lines: {lines}")


if __name__ == "__main__":
    main()
