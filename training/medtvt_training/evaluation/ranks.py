# SPDX-License-Identifier: Apache-2.0
"""The processes that torchrun started to share an evaluation."""

import datetime
import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ranks:
    """
    Args:
        rank (`int`): Number of this process.
        count (`int`): How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> "Ranks":
        """Those that the launcher names; this process alone without one."""
        ranks = cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        if ranks.count > 1 and not torch.distributed.is_initialized():
            # gloo for waiting alone, however long the others take
            torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))
        return ranks

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            torch.distributed.barrier()


def choose_device(device: str | None) -> str:
    """The given device, or by default CUDA where it is available; of several processes each has its own."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device
