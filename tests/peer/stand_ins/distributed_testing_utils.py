# SPDX-License-Identifier: Apache-2.0
"""A function in several processes on this machine's CPU."""

import functools
import os
import socket
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp


def _work(rank: int, world_size: int, port: int, function: Callable, args: tuple, kwargs: dict) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    import modeling_medtvt  # noqa: F401  (registers the model)

    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        function(rank, *args, **kwargs)
    finally:
        dist.destroy_process_group()


def run_distributed(world_size: int, **_: Any) -> Callable[[Callable], Callable]:
    def wrap(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            mp.spawn(_work, (world_size, port, function, args, kwargs), nprocs=world_size)

        return wrapper

    return wrap
