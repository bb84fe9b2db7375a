"""The model card of an exported model: what it is, what it was trained on, how well it does, what it is for, and on which terms."""

from collections.abc import Iterable, Mapping
from typing import Any

from disentangled_ml.structures import TEMPO, TRACK

OTHER = "other"  # licence that has no name of its own
NETWORKS = {"msd": "MSD_musicnn (Million Song Dataset)", "mtt": "MTT_musicnn (MagnaTagATune)"}
USE = """## Intended use

To find recordings that are alike in one of the conditions, or in several with weights, and to sort or visualise a collection by them.
The embedding says which of two recordings is nearer, not which tag a recording has, nor whether two are the same work. Judge it on
your own music first: a network knows the kinds of music that it was trained on."""
MUSICNN = (
    "- It reads features of {networks}, from the package musicnn 0.1.0 (ISC licence), which is to be installed and is no part of these "
    "files. What those networks were trained on has terms of its own: tags that Last.fm offers for non-commercial use (`msd`), "
    "recordings under CC BY-NC-SA (`mtt`). Whether these bind users of the weights is not settled: ask before you sell what is made "
    "with them."
)
TAGS = """- Its weights hold a part of the last layer of these networks. Pass them on with this notice:

  > Copyright (c) Music Technology Group, Universitat Pompeu Fabra 2019. Code developed by Jordi Pons (www.jordipons.me).
  >
  > Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted,
  > provided that the above copyright notice and this permission notice appear in all copies.
  >
  > THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED
  > WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR
  > CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT,
  > NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE."""
MADMOM = (
    "- Where tempo was not given but estimated when the training data were prepared, it was by madmom's networks: CC BY-NC-SA 4.0, "
    "not for commercial use."
)
TRAINING = "- The recordings and labels that it was trained on have terms of their own, which may bind what was learned of them."


def model_card(
    description: Mapping[str, Any], embedding_dim: int, n_parameters: int, license_name: str, with_program: bool = False
) -> str:
    """Return a model card in Markdown, with the front matter that Hugging Face reads.

    Args:
        description: Content of ``config.json``.
        embedding_dim: D.
        n_parameters: Number of trained values.
        license_name: Of the weights, as Hugging Face names it.
        with_program: Whether there is ``model.pt2``.
    """
    names = [cell(name) for name in description["conditions"]]
    parts = [
        front_matter(license_name),
        f"# Music similarity by {', '.join(names)}",
        f"An embedding of music: a chunk becomes a unit vector of {embedding_dim} dimensions, of which each condition looks at its own "
        "part by a mask. A recording's embedding is the normalised mean over its chunks.",
        table(("", ""), facts(description, n_parameters)),
        figures(description["training"]["metrics"]),
        how_to_load(with_program),
        USE,
        licences(description, license_name),
    ]
    return "\n\n".join(parts) + "\n"


def cell(text: str) -> str:
    r"""Return a text as a cell of a table.

    >>> cell("a|b\nc")
    'a\\|b c'
    """
    return " ".join(text.split()).replace("|", r"\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown.

    >>> print(table(["condition", "test"], [["genre", "0.912"]]))
    | condition | test |
    |---|---|
    | genre | 0.912 |
    """
    lines = [list(head), *map(list, rows)]
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([shown[0], "|---" * len(lines[0]) + "|", *shown[1:]])


def front_matter(license_name: str) -> str:
    terms = [f"license: {license_name}"]
    if license_name == OTHER:
        terms += ["license_name: see-model-card", "license_link: README.md"]
    tags = [f"- {tag}" for tag in ("music", "audio", "music-similarity", "metric-learning")]
    fixed = ["library_name: disentangled-ml", "pipeline_tag: feature-extraction", "tags:", *tags]
    return "\n".join(["---", *terms, *fixed, "---"])


def facts(description: Mapping[str, Any], n_parameters: int) -> list[tuple[str, str]]:
    """Return the rows of the card's first table."""
    config, audio, training = description["config"], description["audio"], description["training"]
    backbone, frames = config["backbone"], config["data"]["chunk_frames"]
    extras = [f"features {'+'.join(description['features'])}"] if description.get("features") else []
    extras += ["rhythm branch"] if config.get("rhythm") and TEMPO in description["conditions"] else []
    seconds = frames * audio["hop_length"] / audio["sample_rate"]
    data = {None: "not told", "shards": "shards of its maker's own"}.get(
        training["data"]
    ) or f"the data set {cell(training['data'])}"
    return [
        ("conditions", ", ".join(map(cell, description["conditions"]))),
        ("network", ", ".join([f"{backbone['name']}, width {backbone['width']:g}", *extras])),
        ("frontend, masks", f"{config['frontend']['name']}, {config['mask']['name']}"),
        ("trained values", f"{n_parameters:,}"),
        ("audio", ", ".join(f"{key} {value}" for key, value in audio.items())),
        ("chunk", f"{frames} frames, {seconds:.2f} s"),
        ("trained on", data if training["epochs"] else "nothing: fitted, not trained"),
        ("epochs", str(training["epochs"])),
        ("sha256 of the checkpoint", description["fingerprint"]),
    ]


def figures(metrics: Mapping[str, float]) -> str:
    """Return the accuracies of the run, a row per condition, or that there are none."""
    start = "## Figures\n\n"
    names = dict.fromkeys(key.rpartition("/")[2] for key in metrics)
    if not names:
        return (
            start + "None came with the checkpoint: measure it with `disentangled evaluate checkpoint=DIR shards=DIR`."
        )
    rows = [
        (
            f"{TRACK} (same recording)" if name == TRACK else cell(name),
            *(shown(metrics.get(f"{split}/triplet_accuracy/{name}")) for split in ("test", "val")),
        )
        for name in names
    ]
    told = (
        "Triplet accuracy of the best checkpoint on tracks of the same data that it was not trained on: the share of triplets whose "
        "positive is nearer to the anchor than the negative is, each condition in its own subspace; chance is 0.5."
    )
    return f"{start}{told}\n\n{table(('condition', 'test', 'validation'), rows)}"


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def how_to_load(with_program: bool) -> str:
    lines = [
        "## How to load\n",
        "```python\nimport disentangled_ml\n",
        'model = disentangled_ml.load("DIR")  # this folder',
        'embedding = model.embed("some.mp3")\n```\n',
        "Every command of `disentangled` that takes `checkpoint=` takes this folder too. `model.safetensors` holds the weights, "
        "`config.json` all else.",
    ]
    if with_program:
        lines.append("`model.pt2` is the embedding of chunks for plain PyTorch: `torch.export.load`.")
    return "\n".join(lines)


def licences(description: Mapping[str, Any], license_name: str) -> str:
    """Return the terms that apply to this model."""
    own = "no licence is stated, ask who handed it on" if license_name == OTHER else license_name
    networks = " and ".join(NETWORKS[name] for name in description.get("features", ()))
    lines = [f"- Weights: {own}. The code that runs them: MIT.", TRAINING]
    lines += [MUSICNN.format(networks=networks)] if networks else []
    lines += [TAGS] if "tags" in description else []
    lines += [MADMOM] if TEMPO in description["conditions"] and "tags" not in description else []
    return "\n".join(["## Licences\n", *lines])
