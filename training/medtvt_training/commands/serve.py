# SPDX-License-Identifier: Apache-2.0
"""`medtvt serve`: the pipeline behind HTTP."""

import argparse

from .engine_options import add_engine_options, engine_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt serve`."""
    parser.add_argument("--model", help="checkpoint folder (default: the package's own)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0 takes a free one (default: 8000)")
    parser.add_argument("--max-batch", type=int, default=8, help="patients to answer at a time (default: 8)")
    parser.add_argument(
        "--max-wait",
        type=float,
        default=0.05,
        metavar="SECONDS",
        help="how long a patient waits for others to share the batch (default: 0.05)",
    )
    parser.add_argument(
        "--max-requests", type=int, default=64, help="requests at a time, more are sent away (default: 64)"
    )
    parser.add_argument(
        "--max-request-mb", type=float, default=32, metavar="MB", help="size of a request (default: 32)"
    )
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="until an answer must be there (default: 300)"
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt serve`."""
    from modeling_medtvt import DEFAULT_CHECKPOINT

    from ..inference.load import load_pipeline
    from ..serving.app import Limits
    from ..serving.run import serve
    from ..serving.vllm_engine import write_with_vllm

    limits = Limits(args.max_batch, args.max_wait, args.max_request_mb, args.max_requests, args.timeout)
    model = args.model or DEFAULT_CHECKPOINT
    engine = engine_of(args)
    diagnose = load_pipeline(model)
    if engine is not None:
        write_with_vllm(diagnose.model, diagnose.tokenizer, engine)
    serve(diagnose, model, args.host, args.port, limits)
