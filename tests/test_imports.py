"""Who may import whom (DESIGN, part 4), read from the sources: nothing is imported to find out."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("disentangled_ml", "datamodules", "callbacks")
PURE = (
    *(
        "structures",
        "conditions",
        "triplets",
        "masks",
        "losses",
        "metrics",
        "frontends",
        "model",
        "filter_bank",
        "augmentation",
    ),
    *("gathering", "all_triplets", "backbones", "backbones.*", "baselines", "baselines.*"),
    *("evaluation.*", "trajectories.change_points", "trajectories.change_metrics", "trajectories.matching"),
    *("catalogues.catalogue", "catalogues.weighted_distance", "catalogues.similarity_search", "catalogues.approximate"),
    *("catalogues.precision", "listening.*", "reporting.published", "reporting.comparison"),
    *("web.guard", "web.uploads", "web.view"),
)
ENTRY_POINTS = (
    *("train", "evaluate", "prepare", "demo", "html_report", "human_triplets", "tempo_check", "table"),
    *("embed", "search", "serve", "listening_results", "trajectory", "changes"),
)
COMPOSING = (
    "builders",
    "systems",
    "embedder",
    "catalogues.cataloguing",
    "recordings",
    *ENTRY_POINTS,
)  # know all packages
FIGURES = ("reporting.comparison_figures", "trajectories.figures")
ONE_FILE = {  # a third-party framework and the files that may import it
    "webdataset": ["datamodules/shards.py"],
    "fsspec": ["datamodules/storage.py"],
    "madmom": ["datamodules/tempo.py"],
    "soundfile": ["datamodules/audio.py"],
    "nnAudio": ["disentangled_ml/frontends.py"],
    "symusic": ["datamodules/corpora/demo*.py"],
    "omegaconf": [
        f"disentangled_ml/{name}.py" for name in ("config", "networks", "builders", "runtime/console", "systems")
    ]
    + [f"disentangled_ml/{name}.py" for name in ENTRY_POINTS],
    "wandb": ["disentangled_ml/runtime/tracking.py"],
    "mir_eval": ["disentangled_ml/evaluation/tempo_metrics.py", "disentangled_ml/trajectories/change_metrics.py"],
    "matplotlib": ["callbacks/figures.py"],
    "faiss": ["disentangled_ml/catalogues/approximate.py"],
    "jinja2": ["disentangled_ml/reporting/report_page.py"],
    "starlette": ["disentangled_ml/web/app.py"],
    "uvicorn": ["disentangled_ml/serve.py"],
}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, module: str, is_package: bool = False) -> set[str]:
    """Name what a source imports, anywhere in it; ``from a import b`` gives ``a.b``, relative names are resolved."""
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
            name = ast.unparse(node.func)
            if name in ("__import__", "import_module", "importlib.import_module"):
                found.add(str(node.args[0].value))
    return found


def read_imports(root: Path) -> dict[str, set[str]]:
    """Map each file of ours, relative to the root, to the names it imports."""
    return {
        path.relative_to(root).as_posix(): imports_of(
            path.read_text(encoding="utf-8"), module_name(path, root), path.name == "__init__.py"
        )
        for package in OURS
        for path in sorted((root / package).rglob("*.py"))
    }


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def matches_module(file: str, *patterns: str) -> bool:
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".").removeprefix("disentangled_ml.")
    return file.startswith("disentangled_ml/") and any(fnmatch(module, pattern) for pattern in patterns)


def strays(imports: dict[str, set[str]], framework: str, files: list[str]) -> list[str]:
    return [
        file
        for file, names in imports.items()
        if any(within(name, framework) for name in names) and not any(fnmatch(file, allowed) for allowed in files)
    ]


def foreign_to_pure(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    frameworks = ("pytorch_lightning", "lightning", "omegaconf", "wandb", "datamodules", "callbacks")
    above = [
        f"disentangled_ml.{name}"
        for name in ("config", "module", "builders", "systems", "runtime.console", "runtime.tracking")
    ]
    above += [f"disentangled_ml.{name}" for name in ENTRY_POINTS]
    return [
        (file, name)
        for file, names in imports.items()
        if matches_module(file, *PURE)
        for name in sorted(names)
        if within(name, *frameworks, *above)
    ]


def beyond(imports: dict[str, set[str]], folder: str, allowed: tuple[str, ...]) -> list[tuple[str, str]]:
    """Find what the files of a folder import of ours besides themselves and the allowed modules."""
    legal = (folder, *(f"disentangled_ml.{name}" for name in allowed))
    return [
        (file, name)
        for file, names in imports.items()
        if file.startswith(f"{folder}/")
        for name in sorted(names)
        if within(name, *OURS) and not within(name, *legal)
    ]


def of_ours(imports: dict[str, set[str]], *modules: str) -> list[tuple[str, str]]:
    return [
        (file, name)
        for file, names in imports.items()
        if matches_module(file, *modules)
        for name in sorted(names)
        if within(name, *OURS)
    ]


def know_too_much(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Find what files import of the other packages without composing them; those that draw may know how figures look."""
    return [
        (file, name)
        for file, names in imports.items()
        if file.startswith("disentangled_ml/") and not matches_module(file, *COMPOSING)
        for name in sorted(names)
        if within(name, "datamodules", "callbacks")
        and not (matches_module(file, *FIGURES) and within(name, "callbacks.figures"))
    ]


OF_BENCHMARKS = ("pytorch_metric_learning", "benchmarks")  # peers, which users do not install


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return read_imports(ROOT)


def test_the_packages_are_read(imports):
    for file in ("disentangled_ml/losses.py", "disentangled_ml/backbones/conv.py", "datamodules/corpora/manifest.py"):
        assert imports[file]
    assert any(file.startswith("callbacks/") for file in imports)


@pytest.mark.parametrize("framework", ONE_FILE)
def test_one_framework_one_file(imports, framework):
    assert not strays(imports, framework, ONE_FILE[framework])


@pytest.mark.parametrize("framework", ONE_FILE)
def test_the_file_of_a_framework_uses_it(imports, framework):
    assert strays(imports, framework, [])


@pytest.mark.parametrize("framework", OF_BENCHMARKS)
def test_only_benchmarks_know_peers(imports, framework):
    assert not strays(imports, framework, [])


def test_pure_modules_know_no_framework_and_nothing_above_them(imports):
    assert not foreign_to_pure(imports)


def test_config_and_structures_import_nothing_of_ours(imports):
    assert not of_ours(imports, "config", "structures")


def test_datamodules_import_data_structures_only(imports):
    assert not beyond(imports, "datamodules", ("structures", "conditions", "triplets"))


def test_callbacks_import_structures_and_metrics_only(imports):
    assert not beyond(imports, "callbacks", ("structures", "metrics"))


def test_only_the_builders_and_the_commands_know_all_packages(imports):
    assert not know_too_much(imports)


def test_no_import_cycles_among_modules(imports):
    modules = {module_name(ROOT / file, ROOT): file for file in imports}
    edges = {
        module: {
            other
            for name in imports[file]
            for other in modules
            if other != module and (name == other or name.rpartition(".")[0] == other)
        }
        for module, file in modules.items()
    }

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in modules:
        visit(module, ())


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
        (
            "datamodules/streams.py",
            "import webdataset as wds",
            lambda i: strays(i, "webdataset", ONE_FILE["webdataset"]),
        ),
        ("callbacks/x.py", "from matplotlib import pyplot", lambda i: strays(i, "matplotlib", ONE_FILE["matplotlib"])),
        ("disentangled_ml/losses.py", "import pytorch_lightning as pl", foreign_to_pure),
        ("disentangled_ml/backbones/conv.py", "from omegaconf import DictConfig", foreign_to_pure),
        ("disentangled_ml/model.py", "from disentangled_ml import module", foreign_to_pure),
        ("disentangled_ml/evaluation/listed_triplets.py", "from datamodules.index import ShardIndex", foreign_to_pure),
        ("disentangled_ml/config.py", "from disentangled_ml.structures import TRACK", lambda i: of_ours(i, "config")),
        (
            "datamodules/a.py",
            "from disentangled_ml.losses import x",
            lambda i: beyond(i, "datamodules", ("structures",)),
        ),
        ("datamodules/a.py", "import callbacks.figures", lambda i: beyond(i, "datamodules", ("structures",))),
        ("disentangled_ml/reporting/published.py", "from disentangled_ml.table import Run", foreign_to_pure),
        ("disentangled_ml/model.py", "from callbacks.figures import DPI", know_too_much),
        (
            "disentangled_ml/reporting/comparison_figures.py",
            "from callbacks.throughput import Throughput",
            know_too_much,
        ),
        ("disentangled_ml/reporting/comparison_figures.py", "from datamodules.index import ShardIndex", know_too_much),
        ("callbacks/a.py", "from disentangled_ml import masks", lambda i: beyond(i, "callbacks", ("metrics",))),
    ],
)
def test_the_checks_can_fail(tmp_path, file, line, check):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert not check(read_imports(tmp_path))
    path.write_text(f"def late():\n    {line}\n")
    assert check(read_imports(tmp_path))
