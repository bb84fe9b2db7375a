"""The figures of questions on small catalogues: what can be measured is, the rest says why not."""

import pytest

from benchmarks import questions
from disentangled_ml.search.catalogue import CatalogueTrack
from tests.disentangled_ml.catalogues import unit_rows, write_catalogue


def measured(folder, tracks: list[CatalogueTrack], capsys) -> list[str]:
    write_catalogue(folder, unit_rows(len(tracks)), tracks=tracks)
    questions.main([f"index={folder}", "queries=3"])
    return capsys.readouterr().out.splitlines()


def test_a_small_catalogue_is_measured_as_far_as_it_goes(tmp_path, capsys):
    labels = [{"genre": ["jazz"], "mood": [("calm", "sad")[number % 2]]} for number in range(questions.LEAST_TRACKS)]
    tracks = [CatalogueTrack(f"t{number}", None, None, own) for number, own in enumerate(labels)]
    rows = dict(line[2:].split(" | ", 1) for line in measured(tmp_path, tracks, capsys) if line.startswith("| "))
    assert rows["weight of genre"] == "1.000 | 1.000 |"
    # All share the genre, and each label has too few tracks.
    for name in ("genre of A, mood of B", "label of mood (0 labels)", "genre, moved away (0 pairs)"):
        assert rows[name] == "not measured: no such query in this catalogue | - |"
    assert float(rows["path"].split(" | ")[0]) < float(rows["random tracks"].split(" | ")[0])


def test_without_tags_there_are_paths_and_without_tracks_nothing(tmp_path, capsys):
    tracks = [CatalogueTrack(f"t{number}", None, None, {}) for number in range(questions.LEAST_TRACKS)]
    lines = measured(tmp_path / "many", tracks, capsys)
    assert lines.count("| not measured: no track of this catalogue has tags | - | - |") == 4
    assert lines[-3].startswith("| path | ")
    with pytest.raises(SystemExit, match=r"few has 11 tracks: 10 results beside two seeds need 12, give a larger"):
        measured(tmp_path / "few", tracks[1:], capsys)
