"""Configuration: the order of its layers, every choice of every group, and errors that say what is right."""

import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_origin, get_type_hints

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from disentangled_ml import console
from disentangled_ml.__main__ import COMMANDS
from disentangled_ml.__main__ import main as run
from disentangled_ml.commands.schemas import PrepareConfig, SearchConfig, TableConfig
from disentangled_ml.config import ConfigError, TrainConfig, load_config, loading
from disentangled_ml.config.fields import check_value
from disentangled_ml.config.loading import CONF, GROUPS, conf_file, group_choices, split_argument

SCHEMAS = {name: schema for name, (_, schema) in COMMANDS.items()}
REQUIRED = {
    "train": [],
    "prepare": ["manifest=m.csv", "out=shards/x"],
    "evaluate": ["checkpoint=best.ckpt", "shards=shards/x"],
    "scan": ["music=music", "out=music.csv"],
    "music": ["music=music"],
    "demo": [],
    "human_triplets": ["checkpoint=best.ckpt", "triplets=t.csv"],
    "tempo_check": ["manifest=m.csv"],
    "html_report": ["run=runs/x"],
    "learning_curve": ["shards=d"],
    "table": ["shards=shards/x"],
    "tags_model": ["shards=shards/x", "out=x.ckpt"],
    "trajectory": ["checkpoint=best.ckpt", "path=a.flac"],
    "changes": ["checkpoint=best.ckpt"],
    "embed": ["checkpoint=best.ckpt", "out=indexes/x"],
    "search": ["index=indexes/x"],
    "serve": ["checkpoint=best.ckpt", "index=indexes/x"],
    "export": ["checkpoint=best.ckpt", "out=model"],
    "listening_results": ["listening_test=listening"],
    "fit_weights": ["listening_test=listening", "index=indexes/x"],
}


def fields_of(schema: type, parent: str = ""):
    """Yield the key, type and limits of every field, those of nested schemas in place of these."""
    hints = get_type_hints(schema)
    for field in fields(schema):
        if is_dataclass(hints[field.name]):
            yield from fields_of(hints[field.name], f"{parent}{field.name}.")
        else:
            yield f"{parent}{field.name}", hints[field.name], dict(field.metadata)


FIELDS = [(name, *found) for name, schema in SCHEMAS.items() for found in fields_of(schema)]
CHOICES = [(group, choice) for group in GROUPS for choice in group_choices(group)]


def limited(limit: str):
    """Parametrize a test by the fields that have a limit."""
    found = [(key, hint, limits) for _, key, hint, limits in FIELDS if limit in limits]
    names = [f"{name}-{key}" for name, key, _, limits in FIELDS if limit in limits]
    return pytest.mark.parametrize(("key", "hint", "limits"), found, ids=names)


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    """Copy conf/ to a place where a test may change it."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(loading, "CONF", tmp_path / "conf")
    return tmp_path / "conf"


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_configuration_loads_with_what_it_requires(name):
    tree = load_config(SCHEMAS[name], REQUIRED[name])
    assert not OmegaConf.missing_keys(tree)
    fields = SCHEMAS[name].__dataclass_fields__
    assert set(tree) == set(fields)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_file_names_every_key_with_its_unit_or_legal_values(name):
    text = OmegaConf.load(conf_file(SCHEMAS[name]))

    def keys(node, prefix=""):
        for key in node:
            child = OmegaConf.select(node, key, throw_on_missing=False)
            yield from keys(child, f"{prefix}{key}.") if OmegaConf.is_dict(child) else [f"{prefix}{key}"]

    schema = OmegaConf.structured(SCHEMAS[name])
    filled = OmegaConf.merge(schema, text)
    assert set(keys(text)) == set(keys(filled))


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{g}={c}" for g, c in CHOICES])
def test_every_choice_of_every_group_loads(group, choice):
    tree = load_config(
        TrainConfig, [*([] if group == "data" else ["data=shards"]), "data.shards=d", f"{group}={choice}"]
    )
    assert tree.choices[group] == choice
    expected = OmegaConf.load(CONF / group / f"{choice}.yaml")
    if group not in ("experiment", "data"):  # whose keys stand elsewhere, and are given above
        assert {key: tree[group][key] for key in expected} == expected


def test_there_is_a_choice_in_every_group():
    assert {group for group, _ in CHOICES} == set(GROUPS)
    assert group_choices("backbone") == ["conv", "inception", "musicnn", "resnet", "se"]
    assert group_choices("mask") == ["fixed", "learned", "none"]
    assert group_choices("loss") == ["classification", "proxy", "triplet"]
    assert {"demo", "shards"} <= set(group_choices("data"))


def test_each_layer_beats_the_one_before(conf):
    key = "backbone.width"
    assert "backbone" in OmegaConf.missing_keys(OmegaConf.structured(TrainConfig))
    (conf / "backbone" / "plain.yaml").write_text("name: conv\n")
    (conf / "experiment" / "empty.yaml").write_text("")
    (conf / "experiment" / "wide.yaml").write_text("backbone:\n  width: 5.0\n")
    text = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text(text.replace("  width: ???", "  width: 7.0"))

    def width(*arguments: str) -> float:
        return OmegaConf.select(load_config(TrainConfig, list(arguments)), key)

    assert width("experiment=empty", "backbone=plain") == 7.0  # config.yaml over the schema
    assert width("experiment=empty", "backbone=conv") == 0.25  # the group over config.yaml
    assert width("experiment=wide", "backbone=conv") == 5.0  # the experiment over the group
    assert width(f"{key}=3", "backbone=conv", "experiment=wide") == 3.0  # the argument over all, wherever it stands
    assert width(f"{key}=3", f"{key}=4") == 4.0  # the last argument


def test_a_key_that_no_file_names_is_missed(conf):
    text = (conf / "config.yaml").read_text()
    (conf / "config.yaml").write_text("\n".join(line for line in text.split("\n") if "trainable_stft" not in line))
    with pytest.raises(
        ConfigError, match=r"no value for frontend.trainable_stft: give it as frontend.trainable_stft=VALUE"
    ):
        load_config(TrainConfig, [])


def test_names_of_conditions_may_have_dots():
    tree = load_config(SearchConfig, ["index=i", "weights.track.genre_top=1", "weights.mood=0.5"])
    assert tree.weights == {"track.genre_top": 1.0, "mood": 0.5}


def test_experiment_chooses_groups_and_arguments_choose_again():
    paper = load_config(TrainConfig, ["experiment=icassp2020"])
    assert (paper.choices.backbone, paper.backbone.name, paper.backbone.width) == ("inception", "inception", 1.0)
    assert (paper.choices.experiment, paper.training.max_epochs) == ("icassp2020", 1000)
    for arguments in (["experiment=icassp2020", "backbone=conv"], ["backbone=conv", "experiment=icassp2020"]):
        tree = load_config(TrainConfig, arguments)
        assert (tree.choices.backbone, tree.backbone.name) == ("conv", "conv")
        assert tree.backbone.width == 1.0  # what the experiment says of the group's keys stays
    assert load_config(TrainConfig, []).training.max_epochs == 30


EXPERIMENTS = {  # mask, its start, loss, condition_weight, track_weight, embedding_dim; None: not said
    "track_only": ("none", None, "triplet", 0.0, 1.0, None),
    "category": ("none", None, "triplet", 1.0, 0.0, None),
    "category_track": ("none", None, "triplet", 1.0, 0.5, None),
    "disentangled": ("fixed", None, "triplet", 1.0, 0.0, None),
    "disentangled_track": ("fixed", None, "triplet", 1.0, 0.5, None),
    "specialised": ("none", None, "triplet", 1.0, 0.0, 64),
    "learned_random": ("learned", "random", "triplet", 1.0, 0.5, None),
    "learned_disjoint": ("learned", "disjoint", "triplet", 1.0, 0.5, None),
    "proxy": ("fixed", None, "proxy", 1.0, 0.0, None),
    "classification": ("fixed", None, "classification", 1.0, 0.0, None),
}
OURS = {  # backbone, rhythm: what the papers did not have
    "rhythm": ("resnet", True),
    "musicnn": ("musicnn", False),
    "musicnn_rhythm": ("musicnn", True),
}
FRONTENDS = {  # frontend, trainable_stft, trainable_mel
    "fixed_mel": ("nnaudio", False, False),
    "trainable_mel": ("nnaudio", False, True),
    "trainable_stft": ("nnaudio", True, True),
    "learned_bank": ("waveform", False, False),
}


def test_every_experiment_is_a_recipe_or_a_system_of_the_table():
    table = load_config(TableConfig, REQUIRED["table"])
    recipes = {"demo", "icassp2020", "frontends", "small_catalogue", table.base}
    assert set(group_choices("experiment")) == {*recipes, *EXPERIMENTS, *OURS, *FRONTENDS}
    assert {*EXPERIMENTS, *OURS} <= set(table.systems)


@pytest.mark.parametrize("name", FRONTENDS)
def test_compared_frontends_differ_in_nothing_else(name):
    tree = load_config(TrainConfig, [f"experiment=frontends,{name}"])
    frontend, stft, mel = FRONTENDS[name]
    assert (tree.frontend.name, tree.choices.frontend) == (frontend, frontend)
    assert (tree.frontend.trainable_stft, tree.frontend.trainable_mel) == (stft, mel)
    plain, recipe = (
        OmegaConf.to_container(found) for found in (tree, load_config(TrainConfig, ["experiment=frontends"]))
    )
    assert {key for key in plain if plain[key] != recipe[key]} <= {"frontend", "choices"}
    # nor do they depend on what a recipe says of frontends
    other = load_config(TrainConfig, [f"experiment=trainable_stft,{name}"])
    assert (other.frontend.trainable_stft, other.frontend.trainable_mel) == (stft, mel)


@pytest.mark.parametrize("base", ["", "demo,", "table,", "icassp2020,"], ids=["alone", "demo", "table", "icassp2020"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_the_rows_of_the_papers(name, base):
    tree = load_config(TrainConfig, [f"experiment={base}{name}"])
    mask, start, loss, condition_weight, track_weight, size = EXPERIMENTS[name]
    assert (tree.mask.name, tree.choices.mask) == (mask, mask)
    assert start is None or tree.mask.start == start
    assert (tree.loss.name, tree.choices.loss) == (loss, loss)
    assert (tree.loss.condition_weight, tree.loss.track_weight) == (condition_weight, track_weight)
    assert (tree.embedding_dim, tree.rhythm) == (size, False)
    assert tree.choices.experiment == base + name
    if base == "icassp2020,":
        assert (tree.backbone.name, tree.backbone.width) == ("inception", 1.0)
        assert (tree.training.max_epochs, tree.evaluation.triplets_per_condition) == (1000, 40000)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_say_themselves_what_they_need(conf, name):
    """Each file holds against a recipe that says otherwise, so that no row depends on the defaults."""
    mask, start, _, _, track_weight, _ = EXPERIMENTS[name]
    other = {"none": "fixed", "fixed": "learned", "learned": "none"}[mask]
    (conf / "experiment" / "other.yaml").write_text(
        f"choices: {{mask: {other}}}\nmask: {{start: {'random' if start == 'disjoint' else 'disjoint'}}}\n"
        f"loss: {{track_weight: {track_weight + 1}}}\n"
    )
    tree = load_config(TrainConfig, [f"experiment=other,{name}"])
    assert (tree.mask.name, tree.loss.track_weight) == (mask, track_weight)
    assert start is None or tree.mask.start == start


@pytest.mark.parametrize("name", OURS)
def test_our_own_rows_are_the_full_system_with_more(name):
    tree, papers = (load_config(TrainConfig, [f"experiment=table,{row}"]) for row in (name, "disentangled_track"))
    assert (tree.backbone.name, tree.rhythm) == OURS[name]
    changed = {key for key in OmegaConf.to_container(tree) if tree[key] != papers[key]}
    assert changed <= {"backbone", "rhythm", "choices"}


def test_of_several_experiments_the_later_wins(conf):
    (conf / "experiment" / "a.yaml").write_text("choices: {backbone: conv, mask: none}\ntraining: {max_epochs: 3}\n")
    (conf / "experiment" / "b.yaml").write_text("choices: {backbone: se}\ntraining: {learning_rate: 0.5}\n")
    (conf / "experiment" / "c.yaml").write_text("training: {max_epochs: 5}\n")

    def found(*arguments: str) -> tuple:
        tree = load_config(TrainConfig, list(arguments))
        assert tree.backbone.name == tree.choices.backbone
        return tree.backbone.name, tree.mask.name, tree.training.max_epochs, tree.training.learning_rate

    assert found("experiment=a,b") == ("se", "none", 3, 0.5)
    assert found("experiment=b,a") == ("conv", "none", 3, 0.5)
    assert found("experiment=b,a,c") == ("conv", "none", 5, 0.5)
    assert found("experiment=c,a") == ("conv", "none", 3, 0.003)
    assert found("experiment=a,b", "backbone=resnet", "training.max_epochs=7") == ("resnet", "none", 7, 0.5)
    assert load_config(TrainConfig, ["experiment=a,b"]).choices.experiment == "a,b"


@pytest.mark.parametrize("given", ["category,paper", "paper,category", "category,", ",category", "category, proxy"])
def test_an_unknown_one_of_several_experiments_is_named(given):
    unknown = next(name for name in given.split(",") if name not in EXPERIMENTS)
    with pytest.raises(ConfigError, match=rf"^experiment={unknown} is unknown: choose one of category, "):
        load_config(TrainConfig, [f"experiment={given}"])


def test_experiment_chooses_every_group(conf):
    (conf / "experiment" / "all.yaml").write_text(
        "choices: {backbone: se, frontend: nnaudio, mask: learned, loss: proxy, data: shards, trainer: cpu}\n"
        "data: {shards: there}\n"
    )
    tree = load_config(TrainConfig, ["experiment=all"])
    assert (tree.backbone.name, tree.frontend.name, tree.mask.name) == ("se", "nnaudio", "learned")
    assert tree.loss.name == "proxy"
    assert (tree.data.shards, tree.trainer.accelerator, tree.trainer.devices) == ("there", "cpu", 1)


def test_the_last_choice_counts():
    assert load_config(TrainConfig, ["mask=none", "mask=learned"]).mask.name == "learned"


def test_a_choice_under_its_full_name_is_taken():
    tree = load_config(TrainConfig, ["choices.backbone=conv", "--choices.experiment=icassp2020"])
    assert (tree.choices.backbone, tree.backbone.name) == ("conv", "conv")
    assert tree.training.max_epochs == 1000


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seed=3", ("seed", "3")),
        ("--seed=3", ("seed", "3")),
        ("--resume=epoch=3-step=10.ckpt", ("resume", "epoch=3-step=10.ckpt")),
        ("a.b=--c", ("a.b", "--c")),
        ("a=", ("a", "")),
    ],
)
def test_split_argument(argument, expected):
    assert split_argument(argument) == expected


@pytest.mark.parametrize("argument", ["seed", "--seed", "=3", "--=3", "", "seed 3"])
def test_argument_without_key_and_value(argument):
    with pytest.raises(ConfigError, match="is not of the form key=value"):
        load_config(TrainConfig, [argument])


@pytest.mark.parametrize("dashes", ["", "--"])
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seed=3", 3),
        ("training.max_epochs=010", 10),
        ("seed=0x10", 16),
        ("seed=0o10", 8),
        ("seed=${training.lr_patience}", 4),
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=1", 1.0),
        ("loss.margin=0.25", 0.25),
        ("training.learning_rate=.5", 0.5),
        ("resume=True", True),
        ("resume=TRUE", True),
        ("resume=false", False),
        ("embedding_dim=None", None),
        ("embedding_dim=null", None),
        ("run_name=None", None),
        ("run_name=", None),
        ("training.gradient_clip=0.5", 0.5),
        ("data.conditions=[genre, tempo]", ["genre", "tempo"]),
        ("data.conditions=['genre','tempo']", ["genre", "tempo"]),
        ('data.conditions=["mood"]', ["mood"]),
        ("data.conditions=None", None),
        ("trainer.devices=2", 2),
        ("trainer.devices=auto", "auto"),
        ("trainer.devices=[0, 1]", [0, 1]),
        ("run_name=epoch=3-step=10", "epoch=3-step=10"),
        ("run_name=${backbone.name}-${seed}", "resnet-0"),
    ],
)
def test_values(argument, expected, dashes):
    value = OmegaConf.select(load_config(TrainConfig, [dashes + argument]), argument.split("=")[0])
    assert (OmegaConf.to_object(value) if OmegaConf.is_config(value) else value) == expected


@pytest.mark.parametrize(
    "text", ["007", "12:30", "2024_01", "1e3", "on", "a b # c", "@home", "x: y", "[1", "{}", "~", "-x"]
)
def test_text_stays_as_it_was_typed(text):
    tree = load_config(TrainConfig, [f"run_name={text}", f"wandb.entity={text}", f"data.shards={text}"])
    assert (tree.run_name, tree.wandb.entity, tree.data.shards) == (text, text, text)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sed=1", r"'sed' is unknown \(did you mean seed\?\); legal here: .*\bseed, runs\b"),
        ("backbone.nme=conv", r"'backbone.nme' is unknown \(did you mean name\?\); legal here: backbone.name, "),
        ("data.tempo.tolerence=1", r"'data.tempo.tolerence'.*did you mean tolerance\?.*data.tempo.tolerance_bpm"),
        ("bakbone=conv", r"'bakbone' is unknown \(did you mean backbone\?\); legal here: .*mask"),
        ("experimnt=demo", r"'experimnt' is unknown \(did you mean experiment\?\); legal here: .*experiment"),
        ("nothing.at.all=1", r"'nothing.at.all' is unknown; legal here: choices, seed"),
        ("seed.x=1", r"'seed.x' is unknown; seed has no keys of its own"),
        ("data.conditions.0=genre", r"'data.conditions.0' is unknown; data.conditions has no keys"),
        ("seed[0]=1", r"'seed\[0\]' is unknown"),
        ("data.=1", r"'data.' is unknown; legal here: data.shards"),
        ("choices.colour=red", r"'choices.colour' is unknown; legal here: choices.backbone, choices.frontend"),
        ("backbone=vgg", r"backbone=vgg is unknown: choose one of conv, inception, musicnn, resnet, se"),
        ("backbone=", r"backbone= is unknown: choose one of conv"),
        ("experiment=paper", r"experiment=paper is unknown: choose one of category, .*, demo, .*, icassp2020, "),
        ("mask=Fixed", r"mask=Fixed is unknown: choose one of fixed, learned, none"),
    ],
)
def test_unknown_keys_and_choices(argument, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, [argument])


@pytest.mark.parametrize("name", [name for name in SCHEMAS if name != "train"])
def test_unknown_keys_of_other_commands(name):
    with pytest.raises(ConfigError, match=r"'sheds' is unknown.*legal here: ") as error:
        load_config(SCHEMAS[name], [*REQUIRED[name], "sheds=1"])
    assert "experiment" not in str(error.value)
    with pytest.raises(ConfigError, match=r"'backbone' is unknown"):
        load_config(SCHEMAS[name], [*REQUIRED[name], "backbone=conv"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("seed=x", "^seed=x is not a whole number$"),
        ("seed=1.5", "^seed=1.5 is not a whole number$"),
        ("seed=1e3", "^seed=1000.0 is not a whole number$"),
        ("seed=12:30", "^seed=12:30 is not a whole number$"),
        ("seed=1_000", "^seed=1_000 is not a whole number$"),
        ("seed=True", "^seed=True is not a whole number$"),
        ("seed=None", "^seed is empty: give it as seed=VALUE$"),
        ("resume=maybe", "^resume=maybe is not true or false$"),
        ("resume=yes", "^resume=yes is not true or false$"),
        ("resume=on", "^resume=on is not true or false$"),
        ("resume=1", "^resume=1 is not true or false$"),
        ("loss.margin=wide", "^loss.margin=wide is not a number$"),
        ("loss.margin=1_0", "^loss.margin=1_0 is not a number$"),
        ("loss.margin=inf", "^loss.margin=inf is not a number$"),
        ("data.workers=1_0", "^data.workers=1_0 is not a whole number$"),
        (f"loss.margin={'9' * 400}", r"^loss.margin=9+ is too large$"),
        (f"loss.margin={'9' * 5000}", r"^loss.margin=9+: Exceeds the limit"),
        ("data.tempo={margin: 1_0}", "^data.tempo.margin=1_0 is not a number$"),
        ("augmentation.snr_db=[1_0, 20]", "^augmentation.snr_db=1_0 is not a number$"),
        ("data.conditions=genre", r"^data.conditions=genre is not a list: write it as data.conditions=\[A,B\]$"),
        ("data.shards=None", "^data.shards is empty: give it as data.shards=VALUE$"),
        ("data.tempo=3", r"^data.tempo=3: .*TempoConfig"),
        ("data.conditions=[genre", r"^data.conditions=\[genre: while parsing"),
        ("run_name=${nothing}", r"'nothing' not found"),
        ("run_name=${", r"^run_name: "),
    ],
)
def test_wrong_types(argument, message):
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, [argument])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["data=shards"], "no value for data.shards: give it as data.shards=VALUE"),
        ("prepare", [], "no value for manifest, out: give it as manifest=VALUE"),
        ("prepare", ["manifest=m.csv"], "no value for out: give it as out=VALUE"),
        ("prepare", ["manifest=m.csv", "out=x", "audio.n_fft=1023"], "audio.n_fft=1023 is odd: it must be even"),
        ("table", [], "no value for shards: give it as shards=VALUE"),
        ("table", ["shards=???"], "no value for shards: give it"),
    ],
)
def test_missing_values(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SCHEMAS[name], arguments)


@pytest.mark.parametrize("name", SCHEMAS)
def test_read_only(name):
    tree = load_config(SCHEMAS[name], REQUIRED[name])
    key = next(key for key, value in tree.items() if isinstance(value, int | str))
    with pytest.raises(ReadonlyConfigError):
        tree[key] = tree[key]
    for node in tree.values():
        if OmegaConf.is_config(node):
            assert OmegaConf.is_readonly(node)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_checked_against_its_limits(monkeypatch, name):
    seen = {}
    monkeypatch.setattr(loading, "check_value", lambda key, value, limits: seen.update({key: dict(limits)}))
    load_config(SCHEMAS[name], REQUIRED[name])
    mappings = {key for owner, key, hint, _ in FIELDS if owner == name and get_origin(hint) is dict}
    assert {key: limits for key, limits in seen.items() if key.rpartition(".")[0] not in mappings} == {
        key: limits for owner, key, _, limits in FIELDS if owner == name and key not in mappings
    }


@limited("legal")
def test_legal_values(key, hint, limits):
    legal = limits["legal"]
    for value in legal:
        check_value(key, value, limits)
    assert hint in (str, str | None)
    with pytest.raises(ConfigError, match=f"^{key}=odd is not legal: choose one of {', '.join(legal)}$"):
        check_value(key, "odd", limits)


@limited("least")
def test_least_values(key, hint, limits):
    least = limits["least"]
    check_value(key, least, limits)
    for value in (least - 1,) if hint in (int, int | None) else (least - 1e-9, least - 1):
        with pytest.raises(ConfigError, match=rf"^{key}=\S+ is too small: it must be at least {least}$"):
            check_value(key, value, limits)


@limited("most")
def test_most_values(key, hint, limits):
    most = limits["most"]
    check_value(key, most, limits)
    with pytest.raises(ConfigError, match=rf"^{key}=\S+ is too large: it must be at most {most}$"):
        check_value(key, most + (1 if hint in (int, int | None) else 1e-6), limits)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("train", "loss.mean=odd", "loss.mean=odd is not legal: choose one of all, violating"),
        ("train", "data.tempo.tolerance=-0.1", "data.tempo.tolerance=-0.1 is too small: it must be at least 0"),
        ("train", "seed=4294967296", "seed=4294967296 is too large: it must be at most 4294967295"),
        ("prepare", "audio.n_mels=15", "audio.n_mels=15 is too small: it must be at least 16"),
        ("embed", "split=none", "split=none is not legal: choose one of train, val, test"),
    ],
)
def test_limits_hold_for_arguments(name, argument, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        load_config(SCHEMAS[name], [*REQUIRED[name], argument])


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("key", ["loss.margin", "training.learning_rate", "training.gradient_clip"])
def test_numbers_are_finite(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}={value.replace('.', '')} is not a finite number$"):
        load_config(TrainConfig, [f"{key}={value}"])


def test_numbers_of_open_mappings_are_finite():
    with pytest.raises(ConfigError, match=r"^weights.genre=nan is not a finite number$"):
        load_config(SearchConfig, ["index=i", "weights.genre=.nan"])


@pytest.mark.parametrize("devices", ["0", "-1", "1.5", "abc", "null", "[]", "[0,0]", "[-1]"])
def test_devices(devices):
    with pytest.raises(ConfigError, match=r"trainer.devices=.* is not legal: give auto, a number from 1 on"):
        load_config(TrainConfig, [f"trainer.devices={devices}"])


@pytest.mark.parametrize(
    "shares", ["[0.5,0.5]", "[0.5,0.5,0.1]", "[1.2,-0.1,-0.1]", "[]", "[0.25,0.25,0.25,0.25]", "[.nan,0.5,0.5]"]
)
def test_split_shares(shares):
    with pytest.raises(ConfigError, match=r"split_shares=\[.*\] must be three shares .* sum to 1"):
        load_config(PrepareConfig, [*REQUIRED["prepare"], f"split_shares={shares}"])
    assert load_config(PrepareConfig, [*REQUIRED["prepare"], "split_shares=[1,0,0]"]).split_shares == [1, 0, 0]


def test_half_precision_needs_a_gpu():
    with pytest.raises(ConfigError, match="16-mixed needs a GPU: use bf16-mixed or 32-true"):
        load_config(TrainConfig, ["trainer=cpu", "trainer.precision=16-mixed"])
    load_config(TrainConfig, ["trainer=cpu", "trainer.precision=bf16-mixed"])
    load_config(TrainConfig, ["trainer=gpu", "trainer.precision=16-mixed"])


@pytest.mark.parametrize("loss", ["proxy", "classification"])
def test_gathering_is_of_triplets(loss):
    with pytest.raises(ConfigError, match=f"loss.gather=true is of loss=triplet: {loss} compares chunks with points"):
        load_config(TrainConfig, [f"loss={loss}", "loss.gather=true"])
    assert load_config(TrainConfig, ["loss=triplet", "loss.gather=true"]).loss.gather


def test_pool_holds_a_batch():
    with pytest.raises(ConfigError, match=r"data.pool_tracks=9 must hold at least data.tracks_per_batch=10"):
        load_config(TrainConfig, ["data.pool_tracks=9", "data.tracks_per_batch=10"])
    load_config(TrainConfig, ["data.pool_tracks=10", "data.tracks_per_batch=10"])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("backbone/bad.yaml", "name: conv\nwdith: 1.0\n", r"backbone.wdith: .*did you mean width\?.*backbone.name"),
        ("experiment/bad.yaml", "training: {max_epoch: 3}\n", r"training.max_epoch: .*did you mean max_epochs\?"),
        ("experiment/bad.yaml", "trainning: {max_epochs: 3}\n", r"trainning: .*did you mean training\?"),
        ("experiment/bad.yaml", "choices: {bakbone: conv}\n", r"choices.bakbone is unknown: the groups are backbone, "),
        ("experiment/bad.yaml", "choices: {backbone: vgg}\n", r"backbone=vgg is unknown: choose one of conv, "),
        ("experiment/bad.yaml", "seed: many\n", "^seed=many is not a whole number$"),
        ("experiment/bad.yaml", "seed: 1_000\n", "^seed=1_000 is not a whole number$"),
        ("experiment/bad.yaml", "seed: 1\nseed: 2\n", "experiment/bad.yaml: found duplicate key seed"),
        ("experiment/bad.yaml", "seed: [\n", r"experiment/bad.yaml: while parsing"),
    ],
)
def test_faults_in_files(conf, file, text, message):
    (conf / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, [f"{file.split('/')[0]}=bad"])


def test_configuration_is_a_plain_dict_for_checkpoints():
    plain = OmegaConf.to_container(load_config(TrainConfig, []))

    def types(value):
        yield type(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from types(item)

    assert set(types(plain)) <= {dict, list, str, int, float, bool, type(None)}


def run_main(monkeypatch, main, *arguments: str) -> None:
    monkeypatch.setattr("disentangled_ml.prepare.main", main)
    run(["prepare", *arguments])


@pytest.mark.parametrize("word", ["-h", "--help", "help"])
def test_help_names_every_key_and_runs_nothing(monkeypatch, capsys, word):
    run_main(monkeypatch, lambda _: pytest.fail("ran"), "manifest=m", word)
    out = capsys.readouterr().out
    assert "usage: disentangled prepare key=value" in out
    assert "Turn recordings and labels" in out
    for key in PrepareConfig.__dataclass_fields__:
        assert f"\n{key}:" in out


def test_help_of_training_names_the_choices():
    text = console.usage("disentangled_ml.train", TrainConfig)
    for group in GROUPS:
        assert f"  {group}={'|'.join(group_choices(group))}\n" in text


def test_command_gets_its_configuration(monkeypatch):
    seen = []
    run_main(monkeypatch, seen.append, "--manifest=m.csv", "out=o", "chunk_frames=64")
    assert (seen[0].manifest, seen[0].chunk_frames) == ("m.csv", 64)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("no such backbone"), "configuration error: no such backbone"),
        (ValueError("bad manifest"), "error: bad manifest"),
        (FileNotFoundError(2, "No such file", "m.csv"), "error: .*m.csv"),
    ],
)
def test_input_errors_end_a_command_with_one_line(monkeypatch, error, message):
    def main(_):
        raise error

    with pytest.raises(SystemExit, match=message) as stop:
        run_main(monkeypatch, main, "manifest=m", "out=o")
    assert stop.value.code != 0
    assert "\n" not in str(stop.value.code)


def test_faults_of_the_program_show_themselves(monkeypatch):
    def main(_):
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        run_main(monkeypatch, main, "manifest=m", "out=o")


def run_prepare(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "disentangled_ml.prepare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=CONF.parent)


def test_help_in_a_process():
    done = run_prepare("--help")
    assert done.returncode == 0
    assert "manifest:" in done.stdout


def test_bad_key_in_a_process():
    done = run_prepare("manifset=m.csv")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "did you mean manifest?" in done.stderr
    assert not done.stdout
