# SPDX-License-Identifier: Apache-2.0
"""
Starts vLLM on a checkpoint folder, and holds answers and RFT's rollouts through it against those of transformers. It ends
with 1 where one differs.
"""

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from modeling_medtvt import DEFAULT_CHECKPOINT

from .answers import compare_answers, draw_patients
from .rollouts import compare_rollouts, compare_runs
from .server import vllm_server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--patients", type=int, default=24, help="to answer (default: 24; 0 for none)")
    parser.add_argument("--rows", type=int, default=8, help="whose rollouts to compare (default: 8; 0 for none)")
    parser.add_argument("--url", help="of a server that runs already, started as tests/vllm/server.py does")
    parser.add_argument("--steps", type=int, default=3, help="of RFT, to time (default: 3; 0 for none)")
    args = parser.parse_args()
    differing = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with nullcontext(args.url) if args.url else vllm_server(args.model, folder / "vllm.log") as url:
            if args.patients:
                differing += compare_answers(args.model, draw_patients(folder, args.patients), url)
            if args.rows:
                differing += compare_rollouts(args.model, folder / "rows", args.rows, url)
            if args.steps:
                compare_runs(args.model, folder / "runs", args.steps, url)
    sys.exit(min(1, differing))


if __name__ == "__main__":
    main()
