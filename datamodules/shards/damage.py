"""Damage to shards that is tolerated: a data set of a million tracks need not stand still for one bad disk block."""

import logging
from dataclasses import dataclass

from datamodules.shards.index import ShardsError

logger = logging.getLogger(__name__)


@dataclass
class DamageBudget:
    """Tolerate a bounded share of unreadable samples.

    A loading process sees its own share alone. It ends the run where that alone has lost more than the whole split may lose, or
    is half lost: then it could hardly compose its batches. The losses of all processes are added up after each epoch.

    Attributes:
        samples: Number of samples of the split.
        own: Number of them that this process reads.
        most: Share of the split that may be lost.
        lost: Number lost so far.
    """

    samples: int
    own: int
    most: float
    lost: int = 0

    def record(self, error: ShardsError, lost: int) -> None:
        """Count what an error loses; raise a ``ShardsError`` if that is too much by now."""
        self.lost += lost
        if self.lost > self.most * self.samples:
            reason = f"{self.lost} of {self.samples} samples are lost, more than data.max_damaged={self.most:g} allows"
            raise ShardsError(f"{error}; {reason}") from error
        if 2 * self.lost > self.own:
            raise ShardsError(f"{error}; more than half of what this process reads is lost") from error
        logger.warning("skipped: %s; %d of %d samples are lost so far", error, self.lost, self.own)
