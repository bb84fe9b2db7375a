"""Embedding in parts: together they make what one run makes; what is missing is named with the part that makes it."""

import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpora.manifest import read_manifest
from datamodules.shards.parts import DIVISION, Part
from disentangled_ml.commands import embed
from disentangled_ml.commands.schemas import EmbedConfig
from disentangled_ml.config import ConfigError, load_config
from disentangled_ml.files import locked
from disentangled_ml.search import build
from disentangled_ml.search.assembly import write_header
from disentangled_ml.search.build import EmbeddedStore, manifest_batches, plan_rows
from disentangled_ml.search.catalogue import COLUMNS, HEADER, CatalogueError, read_catalogue
from disentangled_ml.structures import DUPLICATE, Rejected
from tests.disentangled_ml.catalogues import save_checkpoint, write_recordings

ROOT = Path(__file__).resolve().parents[3]
ROWS = 2  # of a batch here
N = 5  # recordings; with a repeated row there are three batches
ALL_TRAIN = (1.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "x.ckpt")


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    """Write a manifest of three batches, whose last row repeats a track of the first one."""
    monkeypatch.setattr(build, "ROWS_PER_BATCH", ROWS)
    path = write_recordings(tmp_path / "recordings", N)
    header, first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, first, *rows, first]) + "\n")
    return path


@pytest.fixture
def run(tmp_path, checkpoint, one_thread) -> Callable[..., None]:
    def run(out: str, *arguments: str) -> None:
        given = [f"checkpoint={checkpoint}", f"out={tmp_path}/{out}", "workers=1", "accelerator=cpu", *arguments]
        embed.main(load_config(EmbedConfig, given))

    return run


def content_of(folder: Path) -> dict[str, bytes]:
    paths = (folder / HEADER, folder / "rejected.csv", *read_catalogue(folder).files.iterdir())
    return {path.name: path.read_bytes() for path in paths}


def test_parts_of_a_manifest_make_what_one_run_makes(tmp_path, run, manifest):
    source = f"manifest={manifest}"
    run("once", source)
    for number in (3, 2):
        run("parts", source, f"part={number}/3")
    assert sorted(path.stem for path in (tmp_path / "parts/pieces").glob("*.npz")) == ["rows-000001", "rows-000002"]
    missing = r"parts lacks 1 of 3 batches \(rows-000000\): run embed with part=1/3 first, then merge=true again"
    with pytest.raises(CatalogueError, match=missing):
        run("parts", source, "merge=true")
    assert not (tmp_path / "parts" / HEADER).exists()
    run("parts", source, "part=1/3")
    run("parts", source, "merge=true", f"npz={tmp_path}/all.npz", f"parquet={tmp_path}/all.parquet")
    assert len(np.load(tmp_path / "all.npz")["track_id"]) == N
    assert (tmp_path / "all.parquet").stat().st_size > 0
    assert content_of(tmp_path / "parts") == content_of(tmp_path / "once")
    assert DUPLICATE in (tmp_path / "parts/rejected.csv").read_text()
    # Rows or recordings that have changed since are missed, by the parts that embed them.
    manifest.write_text(manifest.read_text().replace("r2,2.flac,artist 2", "r2,2.flac,Ann"))
    with pytest.raises(CatalogueError, match=r"lacks 1 of 3 batches \(rows-000001\): run embed with part=2/3 first"):
        run("parts", source, "merge=true")


def test_parts_of_shards_make_what_one_run_makes(tmp_path, run, tiny_shards):
    source = f"shards={tiny_shards}"
    run("once", source)
    for number in (1, 3, 4):
        run("parts", source, f"part={number}/4")
    with pytest.raises(CatalogueError, match=r"lacks 3 of 11 batches .*: run embed with part=2/4 first"):
        run("parts", source, "merge=true")
    run("parts", source, "part=2/4")
    run("parts", source, "merge=true")
    assert content_of(tmp_path / "parts") == content_of(tmp_path / "once")


def test_more_parts_than_batches(tmp_path, run, tiny_shards):
    run("parts", f"shards={tiny_shards}", "split=val", "part=40/40")
    assert not list((tmp_path / "parts/pieces").glob("*.npz"))


def test_a_part_that_ended_early_goes_on_and_keeps_what_it_had(tmp_path, run, manifest, monkeypatch):
    source, save = f"manifest={manifest}", EmbeddedStore.save

    def die(store, batch, finished):
        save(store, batch, finished)
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddedStore, "save", die)
    with pytest.raises(KeyboardInterrupt):
        run("parts", source, "part=1/2")
    monkeypatch.undo()
    monkeypatch.setattr(build, "ROWS_PER_BATCH", ROWS)
    (first,) = (tmp_path / "parts/pieces").glob("*.npz")
    made = first.stat()
    run("parts", source, "part=1/2")
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert sorted(path.stem for path in first.parent.glob("*.npz")) == ["rows-000000", "rows-000002"]


def test_parts_are_embedded_at_the_same_time_but_nothing_else_is(tmp_path, run, tiny_shards):
    source = f"shards={tiny_shards}"
    run("parts", source, "part=1/2")
    with locked(tmp_path / "parts"):
        run("parts", source, "part=2/2")
        for step in ("merge=true", "merge=false"):
            with pytest.raises(ConfigError, match="is being worked in by another process"):
                run("parts", source, step)


def test_a_merge_before_any_part(run, tiny_shards):
    with pytest.raises(CatalogueError, match=r"model.json is missing or damaged: embed the parts first"):
        run("parts", f"shards={tiny_shards}", "merge=true")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["part=5/4"], "part=5/4 is not legal"),
        (["part=1/4", "merge=true"], "part=1/4 and merge=true are two steps"),
        (["part=1/4", "npz=a.npz"], "part=1/4 makes no npz=a.npz, .*: give it to the run with merge=true"),
        (["part=1/1", "npz=a.npz", "parquet=b.parquet"], "part=1/1 makes no npz=a.npz nor parquet=b.parquet"),
    ],
)
def test_steps_that_are_none(run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run("parts", "shards=x", *arguments)


@pytest.mark.parametrize(
    "task", [{"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "7"}, {}], ids=["part", "merge"]
)
def test_on_slurm_the_merging_job_alone_writes_files_of_the_whole(tmp_path, task):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    given = ["checkpoint=a b.ckpt", "npz=x y.npz", "out=o", "--parquet=z.parquet", "split=val"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **task}
    job = ["bash", str(ROOT / "conf/slurm/embed.sbatch"), *given]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=True)
    kept = [argument for argument in given if not (task and ("npz" in argument or "parquet" in argument))]
    step = "part=3/7" if task else "merge=true"
    assert done.stdout.splitlines()[-len(kept) - 3 :] == [step, "workers=1", "accelerator=cpu", *kept]


def test_each_row_is_in_one_part_and_a_repeated_track_is_rejected(manifest):
    corpus = read_manifest(manifest, ALL_TRAIN)
    plan = plan_rows(corpus, None)
    assert plan == (N + 1, {N})
    whole = list(manifest_batches(corpus, None, plan))
    parts = [list(manifest_batches(corpus, None, plan, Part(number, 2))) for number in (1, 2)]
    assert [*parts[0], *parts[1]] == [whole[0], whole[2], whole[1]]
    rows = [row for _, rows in whole for row in rows]
    assert [row.track_id for row in rows] == ["r0", "r1", "r2", "r3", "r4", "r0"]
    assert [number for number, row in enumerate(rows) if isinstance(row, Rejected)] == [N]


@pytest.mark.parametrize("n_rows", [N, N + 2])
def test_a_manifest_that_changes_while_it_is_read(manifest, n_rows):
    corpus = read_manifest(manifest, ALL_TRAIN)
    plan = plan_rows(corpus, None)._replace(n_rows=n_rows)
    with pytest.raises(CatalogueError, match="the corpus changed while it was read"):
        list(manifest_batches(corpus, None, plan))


def test_the_error_without_a_note_of_the_division_names_the_whole(tmp_path, run, tiny_shards):
    run("parts", f"shards={tiny_shards}", "part=1/2")
    (tmp_path / "parts/pieces" / DIVISION).unlink()
    with pytest.raises(CatalogueError, match="run embed with part=1/1 first"):
        run("parts", f"shards={tiny_shards}", "merge=true")


@pytest.mark.parametrize("array", [np.zeros((3, 4), "<f4"), np.zeros(3, COLUMNS)], ids=["embedding", "columns"])
def test_an_array_that_is_written_row_by_row_is_as_numpy_writes_it(array):
    whole, streamed = io.BytesIO(), io.BytesIO()
    np.save(whole, array)
    write_header(streamed, array.dtype, array.shape)
    streamed.write(array.tobytes())
    assert streamed.getvalue() == whole.getvalue()
