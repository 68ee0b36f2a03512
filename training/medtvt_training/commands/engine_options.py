# SPDX-License-Identifier: Apache-2.0
"""Options of commands that can write their texts with vLLM."""

import argparse
from typing import TYPE_CHECKING

from ..serving import DEFAULT_ENGINE_URL


if TYPE_CHECKING:
    from ..serving.vllm_engine import VllmEngine


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--engine` and `--engine-url`."""
    parser.add_argument(
        "--engine",
        choices=["transformers", "vllm"],
        default="transformers",
        help="what writes the texts; vllm is a server of the same folder, see docs/serving.md (default: transformers)",
    )
    parser.add_argument(
        "--engine-url", metavar="URL", help=f"with --engine vllm: its address (default: {DEFAULT_ENGINE_URL})"
    )


def engine_of(args: argparse.Namespace) -> "VllmEngine | None":
    """
    The vLLM server that the options name; None for transformers.

    Raises:
        ValueError: if an address is given without `--engine vllm`, or no vLLM is there.
        EngineError: if nothing answers there.
    """
    if args.engine != "vllm":
        if args.engine_url:
            raise ValueError("--engine-url belongs to --engine vllm.")
        return None
    from ..serving.vllm_engine import VllmEngine

    return VllmEngine(args.engine_url or DEFAULT_ENGINE_URL)
