"""A model that is handed on: the same to the bit, taken wherever a checkpoint is, refused where it was damaged or changed."""

import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from omegaconf import OmegaConf

import disentangled_ml
from disentangled_ml.chunks import pack
from disentangled_ml.commands import embed, export, search
from disentangled_ml.commands.schemas import EmbedConfig, EvaluateConfig, ExportConfig, SearchConfig
from disentangled_ml.commands.tags_model import tags_checkpoint
from disentangled_ml.config import ConfigError, TrainConfig, load_config
from disentangled_ml.evaluate import main as evaluate
from disentangled_ml.network.checkpoint import (
    load_checkpoint,
    load_model,
    make_network,
    make_tags_network,
    network_arguments,
)
from disentangled_ml.network.exported import CONFIG, MOST_BYTES, WEIGHTS, digest_of
from disentangled_ml.network.program import example_inputs
from disentangled_ml.search import hub
from disentangled_ml.search.hub import HubEmbedder
from disentangled_ml.structures import AudioSettings
from disentangled_ml.training.resume import check_resumable
from tests.conftest import CHUNK_FRAMES, N_MELS, TINY
from tests.disentangled_ml.catalogues import NAMES, save_checkpoint

ROOT = Path(__file__).resolve().parents[3]
PROGRAM_ATOL = 1e-4  # of another order of the sums
FLOAT16_ATOL = 1e-3  # of an embedding, whose log-mel is float16 here and float32 in the example
SMALL_AUDIO = AudioSettings(n_mels=N_MELS)
TAGS = {"genre": ["jazz", "rock"], "mood": ["sad"]}

pytestmark = pytest.mark.usefixtures("one_thread")


def run(checkpoint: Path, out: Path, *arguments: str) -> Path:
    export.main(load_config(ExportConfig, [f"checkpoint={checkpoint}", f"out={out}", *arguments]))
    return out


def save_network(
    path: Path, *arguments: str, features: tuple[str, ...] = (), audio: AudioSettings = SMALL_AUDIO
) -> Path:
    """Save the checkpoint of an untrained network whose running statistics are not those that it is made with."""
    config = load_config(TrainConfig, [*TINY, "data.shards=/secret/shards", *arguments])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_network(NAMES, audio, **network_arguments(config), features=features).train()
        for _ in range(2):
            inputs = [torch.rand_like(each) for each in example_inputs(network, audio, config.data.chunk_frames)]
            network(packed(inputs))
    content = {
        "state_dict": {f"network.{key}": value for key, value in network.state_dict().items()},
        "config": OmegaConf.to_container(config),
        "conditions": NAMES,
        "audio": asdict(audio),
        "features": list(features),
    }
    torch.save(content, path)
    return path


def save_tags(path: Path) -> Path:
    network = make_tags_network(TAGS, SMALL_AUDIO, ["msd"])
    network.head.weight.copy_(torch.rand(network.head.weight.shape, generator=torch.Generator().manual_seed(0)))
    torch.save(tags_checkpoint(network, TAGS, "/secret/shards", CHUNK_FRAMES), path)
    return path


KINDS = {
    "conv": lambda path: save_network(path, "rhythm=false"),
    "resnet": lambda path: save_network(path, "backbone=resnet", "backbone.width=0.05", "trainer.channels_last=true"),
    "musicnn": lambda path: save_network(path, "backbone=musicnn", "backbone.width=1.0", features=("msd", "mtt")),
    "fused": lambda path: save_network(path, "backbone.features=true", "mask=learned", features=("mtt",)),
    "tags_model": save_tags,
}


def chunks_of(checkpoint: Path, n: int) -> list[torch.Tensor]:
    """Draw chunks as a program takes them."""
    model, generator = load_model(checkpoint), torch.Generator().manual_seed(1)
    inputs = example_inputs(model.network, model.audio, model.chunk_frames)
    return [torch.rand(n, *each.shape[1:], generator=generator) for each in inputs]


def packed(inputs: list[torch.Tensor]) -> torch.Tensor:
    if len(inputs) == 1:
        return inputs[0]
    return torch.from_numpy(np.stack([pack(*each) for each in zip(*(i.numpy() for i in inputs), strict=True)]))


@pytest.fixture(scope="module")
def best(trained) -> Path:
    return trained / "checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def exported(tmp_path_factory, best) -> Path:
    return run(best, tmp_path_factory.mktemp("export") / "model")


@pytest.fixture
def copied(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_every_kind_is_the_same_to_the_bit_and_as_a_program_nearly(tmp_path, kind):
    checkpoint = KINDS[kind](tmp_path / "x.ckpt")
    out = run(checkpoint, tmp_path / "out", "program=true")
    before, after = load_model(checkpoint), load_model(out)
    assert before.fingerprint == after.fingerprint == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert np.array_equal(before.masks, after.masks)
    for name in ("condition_names", "audio", "chunk_frames", "tempo"):
        assert getattr(before, name) == getattr(after, name)
    program = torch.export.load(out / "model.pt2").module()
    for n in (1, 5):
        inputs = chunks_of(checkpoint, n)
        expected = before.network(packed(inputs))
        assert torch.equal(after.network(packed(inputs)), expected)
        torch.testing.assert_close(program(*inputs), expected, atol=PROGRAM_ATOL, rtol=0)
    assert np.array_equal(program.condition_masks.numpy(), before.masks)
    for content in contents(out):
        for secret in (str(tmp_path), "/secret", str(ROOT), sys.prefix, "site-packages", ".py"):
            assert secret.encode() not in content


def contents(folder: Path) -> list[bytes]:
    """Return the bytes of all files, and of those in archives."""
    found = [path.read_bytes() for path in folder.iterdir() if path.suffix != ".pt2"]
    with zipfile.ZipFile(io.BytesIO((folder / "model.pt2").read_bytes())) as archive:
        return found + [archive.read(name) for name in archive.namelist()]


def test_the_folder_of_a_run(exported, trained, best):
    assert {path.name for path in exported.iterdir()} == {CONFIG, WEIGHTS, "README.md"}
    assert [path.name for path in exported.parent.iterdir()] == ["model"]
    config, metrics = json.loads((exported / CONFIG).read_text()), json.loads((trained / "metrics.json").read_text())
    assert config["training"]["epochs"] == 1
    card = (exported / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("other", "disentangled-ml")
    assert "music-similarity" in front["tags"]
    for name in (*NAMES, "mean"):
        test, val = (metrics[f"{split}/triplet_accuracy/{name}"] for split in ("test", "val"))
        assert f"| {name} | {test:.3f} | {val:.3f} |" in card
    assert "madmom" in card
    assert "musicnn" not in card
    for secret in (str(trained), "shards="):
        assert all(
            secret not in (exported / name).read_text().replace("shards=DIR", "") for name in (CONFIG, "README.md")
        )


def test_the_card_of_tags_carries_the_notice_and_no_figures(tmp_path):
    card = (run(save_tags(tmp_path / "x.ckpt"), tmp_path / "out", "license=cc-by-4.0") / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "cc-by-4.0"
    for expected in (
        "Universitat Pompeu Fabra 2019",
        "MSD_musicnn",
        "None came with the checkpoint",
        "nothing: fitted",
    ):
        assert expected in card
    assert "madmom" not in card


def test_what_is_exported_again_tells_the_same(exported, tmp_path):
    again = run(exported, tmp_path / "again")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in exported.iterdir()
    }


@pytest.mark.parametrize(
    "training", [3, {}, {"data": 3, "epochs": 1, "metrics": {}}, {"data": None, "epochs": 1, "metrics": {"x": "y"}}]
)
def test_nonsense_about_the_training_is_not_handed_on(copied, tmp_path, training):
    change(copied, training=training)
    with pytest.raises(ValueError, match=r"copied/config\.json has no legal training"):
        run(copied, tmp_path / "out")


def test_last_ckpt_has_no_figures_of_the_best(trained, tmp_path):
    out = run(trained / "checkpoints/last.ckpt", tmp_path / "out")
    assert json.loads((out / CONFIG).read_text())["training"]["metrics"] == {}


def test_a_catalogue_is_searched_by_either(best, exported, tiny_shards, tmp_path, capsys):
    found = []
    for maker, other in ((best, exported), (exported, best)):
        index = tmp_path / maker.name
        for checkpoint in (maker, other):  # the second time nothing is left to be done
            given = [
                f"checkpoint={checkpoint}",
                f"shards={tiny_shards}",
                f"out={index}",
                "split=test",
                "accelerator=cpu",
            ]
            embed.main(load_config(EmbedConfig, given))
        capsys.readouterr()
        arguments = [f"index={index}", "like=t64", f"checkpoint={other}", "accelerator=cpu"]
        search.main(load_config(SearchConfig, arguments))
        found.append(capsys.readouterr().out)
        assert len(disentangled_ml.load(other).open(index).search("t64", k=3)) == 3
    assert found[0] == found[1]


def test_evaluation_takes_it_with_shards(best, exported, tiny_shards, tmp_path):
    reports = []
    for checkpoint in (best, exported):
        out = tmp_path / "report.json"
        given = [f"checkpoint={checkpoint}", f"shards={tiny_shards}", f"out={out}", "triplets_per_condition=20"]
        evaluate(load_config(EvaluateConfig, [*given, "accelerator=cpu"]))
        reports.append(json.loads(out.read_text()))
    assert reports[0] == reports[1]
    with pytest.raises(ConfigError, match=r"model is an exported model.*give shards=DIR"):
        evaluate(load_config(EvaluateConfig, [f"checkpoint={exported}", "accelerator=cpu"]))


def test_training_does_not_go_on_from_it(exported):
    with pytest.raises(ConfigError, match=r"model lacks .*optimizer_states.*: training cannot go on from it"):
        check_resumable(exported, {}, load_checkpoint(exported), 5)


def change(folder: Path, sealed: bool = True, **changed) -> None:
    """Change config.json, with a new seal or with the old one."""
    content = {**json.loads((folder / CONFIG).read_text()), **changed}
    if sealed:
        content["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        content["config_sha256"] = digest_of(content)
    (folder / CONFIG).write_text(json.dumps(content))


def forge(folder: Path, weights: bytes) -> None:
    """Replace the weights under a new seal."""
    (folder / WEIGHTS).write_bytes(weights)
    change(folder)


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def one_tensor(said: int, size: int) -> bytes:
    """Make a safetensors file of one tensor, of some bytes as its header says, and of some others in truth."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [said // 4], "data_offsets": [0, said]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


def settings(folder: Path, **changed) -> dict:
    return {**json.loads((folder / CONFIG).read_text())["config"], **changed}


def text(content: str):
    return lambda folder: (folder / CONFIG).write_text(content)


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def make_folder_of_config(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip, r"copied/model\.safetensors is damaged, or not the file"),
        (truncate, r"copied/model\.safetensors is damaged, or not the file"),
        (remove(WEIGHTS), r"copied/model\.safetensors is missing"),
        (remove(CONFIG), r"copied holds no config\.json"),
        (make_folder_of_config, r"copied holds no config\.json"),
        (lambda f: forge(f, b""), r"copied/model\.safetensors cannot be read"),
        (lambda f: forge(f, struct.pack("<Q", 2**62) + b"{}"), r"copied/model\.safetensors cannot be read"),
        (lambda f: forge(f, struct.pack("<Q", 2) + b"[]"), r"copied/model\.safetensors cannot be read"),
        (lambda f: forge(f, one_tensor(2**40, 16)), r"copied/model\.safetensors cannot be read"),
        (lambda f: forge(f, one_tensor(800, 800)), r"copied: no network .*Missing key"),
        (lambda f: change(f, config=settings(f, embedding_dim=48)), r"copied: no network .*size mismatch"),
        (
            lambda f: change(f, config=settings(f, backbone={"name": "../x", "width": 1})),
            r"copied: no network .*unknown",
        ),
        (
            lambda f: change(f, config=settings(f, embedding_dim=3 * 10**9)),
            r"copied/config\.json asks for more .*embedding_dim",
        ),
        (
            lambda f: change(f, config=settings(f, backbone={"name": "conv", "width": 60})),
            r"asks for more .*backbone\.width=60",
        ),
        (lambda f: change(f, config=settings(f, backbone=3)), r"copied: no network"),
        (lambda f: change(f, config=3), r"copied/config\.json lacks config\.data"),
        (lambda f: change(f, conditions=[3]), r"copied has no legal conditions"),
        (lambda f: change(f, audio={"sample_rate": -1}), r"copied has no legal audio"),
        (lambda f: change(f, fingerprint=3), r"copied/config\.json has no legal fingerprint"),
        (lambda f: change(f, format_version=2), r"copied/config\.json is of format version 2, .*update"),
        (lambda f: change(f, format_version=None), r"copied/config\.json is of format version None"),
        (
            lambda f: change(f, sealed=False, conditions=["a", "b", "c"]),
            r"copied/config\.json is damaged, or was changed",
        ),
        (text('{"model_type": "bert"}'), r"copied/config\.json is another program's"),
        (text("[]"), r"copied/config\.json is another program's"),
        (text("{"), r"copied/config\.json cannot be read"),
        (text("[" * 100_000), r"copied/config\.json cannot be read"),
        (text(" " * (MOST_BYTES + 1)), r"copied/config\.json cannot be read \(it has more than"),
    ],
)
def test_damaged_foreign_and_hostile_folders_are_refused_by_name(copied, damage, said):
    damage(copied)
    with pytest.raises(ValueError, match=said):
        disentangled_ml.load(copied)


def test_search_refuses_changed_weights_before_it_searches(copied, tiny_shards, tmp_path):
    embed.main(
        load_config(EmbedConfig, [f"checkpoint={copied}", f"shards={tiny_shards}", f"out={tmp_path}/i", "split=val"])
    )
    flip(copied)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        search.main(load_config(SearchConfig, [f"index={tmp_path}/i", "like=t48", f"checkpoint={copied}"]))


@pytest.mark.parametrize("name", ["notes.txt", CONFIG, WEIGHTS])
def test_a_folder_with_something_else_is_refused(best, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(ValueError, match=r"out holds something else.*give out=DIR"):
        run(best, tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == "{}"


def test_a_file_is_refused_and_an_empty_folder_is_filled(best, tmp_path):
    with pytest.raises(ValueError, match=r"best\.ckpt is a file"):
        run(best, best)
    (tmp_path / "empty").mkdir()
    assert (run(best, tmp_path / "empty") / WEIGHTS).is_file()


def test_an_earlier_export_is_replaced_or_kept_whole(copied, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    other = save_checkpoint(tmp_path / "x.ckpt")
    rename = Path.rename

    def fail(self: Path, target: Path) -> None:
        if ".new." in self.name:
            raise OSError("disk full")
        rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match=r"copied cannot be written .disk full.: what was there before is kept"):
            run(other, copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    run(other, copied)
    assert load_model(copied).fingerprint == load_model(other).fingerprint
    assert {path.name for path in tmp_path.iterdir()} == {"copied", "x.ckpt"}


def test_a_license_must_be_a_name(best, tmp_path):
    with pytest.raises(ConfigError, match=r"license=.* is no name"):
        run(best, tmp_path / "out", 'license="x: y"')


def test_the_example_of_the_docs_runs_as_it_stands(tmp_path, monkeypatch):
    audio = AudioSettings()
    checkpoint = save_network(tmp_path / "x.ckpt", "data.chunk_frames=129", audio=audio)
    run(checkpoint, tmp_path / "out", "program=true")
    waveform = np.random.default_rng(0).normal(size=7 * audio.sample_rate) * np.linspace(0, 0.2, 7 * audio.sample_rate)
    soundfile.write(tmp_path / "some.wav", waveform, audio.sample_rate)
    (tmp_path / "out/model.pt2").rename(tmp_path / "model.pt2")
    example = (ROOT / "docs/export.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example, names)
    expected = disentangled_ml.load(tmp_path / "out").embed(tmp_path / "some.wav")
    np.testing.assert_allclose(names["embedding"].detach().numpy(), expected, atol=FLOAT16_ATOL)


class Hub:
    """What is uploaded, in place of the Hub."""

    def __init__(self, **_):
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, **_):
        self.repo_id = repo_id
        return self

    def upload_folder(self, folder_path: Path, **_) -> str:
        self.files.update({path.name: path.read_bytes() for path in folder_path.iterdir()})
        return "url"


def test_the_hub_saves_loads_and_uploads_what_export_makes(best, exported, tmp_path, monkeypatch):
    expected = {path.name: path.read_bytes() for path in exported.iterdir()}
    model = HubEmbedder(best)
    model.save_pretrained(tmp_path / "saved")
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == expected
    loaded = HubEmbedder.from_pretrained(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "saved")  # onto itself
    chunks = torch.rand(3, 1, N_MELS, CHUNK_FRAMES)
    assert np.array_equal(loaded.embed_chunks(chunks.numpy()), model.embed_chunks(chunks.numpy()))
    server = Hub()
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", lambda **_: server)
    assert loaded.push_to_hub("me/my-model") == "url"
    assert (server.repo_id, server.files) == ("me/my-model", expected)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda **_: str(exported / CONFIG))
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **_: str(exported))
    assert HubEmbedder.from_pretrained("me/my-model").model.fingerprint == model.model.fingerprint


def test_without_the_package_it_is_said_how_to_get_it():
    code = "import sys; sys.modules['huggingface_hub'] = None; import disentangled_ml.search.hub"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "pip install 'disentangled-ml[hub]'" in done.stderr.splitlines()[-1]


def test_metrics_that_are_damaged_are_named(copy_of_trained, tmp_path):
    (copy_of_trained / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json holds no JSON object"):
        run(copy_of_trained / "checkpoints/best.ckpt", tmp_path / "out")
