"""Baselines to the table of embeddings that networks are evaluated with."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from disentangled_ml.baselines.base import Baseline
from disentangled_ml.evaluation.listed_triplets import EmbeddingTable
from disentangled_ml.structures import Member, requested_starts


def baseline_table(
    baseline: Baseline, tracks: Iterable[tuple[str, Tensor]], wanted: set[Member], chunk_frames: int
) -> EmbeddingTable:
    """Embed whole tracks, and those of their chunks that are wanted.

    A whole track is embedded as one excerpt, not as the mean of its chunks, and nothing is normalised: a baseline's distances are
    its own. Wanted chunks of tracks that do not come are left out.

    Args:
        baseline: Fitted.
        tracks: Ids and spectrograms.
        wanted: Chunks by their first frame.
        chunk_frames: Length of the chunks.

    Shape:
        tracks: (n_mels, F) each.

    Raises:
        ValueError: if a wanted chunk lies outside of its track.
    """
    starts = requested_starts(wanted)
    table = EmbeddingTable(wanted)
    for track_id, mel in tracks:
        table.rows[Member(track_id)] = baseline.embed(mel)
        for start in sorted(starts.get(track_id, ())):
            if not 0 <= start <= mel.shape[1] - chunk_frames:
                raise ValueError(
                    f"the chunk of track {track_id} from frame {start} is wanted, "
                    f"legal are 0 to {mel.shape[1] - chunk_frames}"
                )
            table.rows[Member(track_id, start)] = baseline.embed(mel[:, start : start + chunk_frames])
    return table
