"""What the paper calculation of docs/scale.md is measured by."""

from benchmarks.embedding import measure_merging


def test_every_stage_of_a_merge_is_measured(tmp_path):
    names = [name for name, _ in measure_merging(600, tmp_path)]
    assert names[:2] == ["survey a manifest", "number its rows"]
    assert {"check all batches", "assemble", "index", "audio_fingerprint.npy", "pieces"} < set(names)
