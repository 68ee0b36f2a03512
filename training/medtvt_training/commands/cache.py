# SPDX-License-Identifier: Apache-2.0
"""`medtvt cache`: a dataset's rows and the frozen encoders' outputs, stored before a launch; one share a process."""

import argparse
import datetime
import os

from ..data.rows import LEVELS, SPLITS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt cache`."""
    parser.add_argument("--model", required=True, help="checkpoint folder whose encoders are run")
    parser.add_argument("--data", required=True, help="folder of a MedTVT-QA dataset")
    parser.add_argument(
        "--out",
        required=True,
        help="folder of the cache, for `--feature-cache` of the stages; goes on where one stopped",
    )
    parser.add_argument(
        "--levels", nargs="+", choices=LEVELS, default=LEVELS, help="physiology is PT's, diagnosis the rest's"
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=SPLITS,
        default=("train", "validation"),
        help="default: those that training reads",
    )
    parser.add_argument(
        "--feature-dtype", choices=("float32", "float16"), default="float32", help="float16 takes half the space"
    )
    parser.add_argument("--ecg-root", help="folder of the ECG paths (default: the dataset's)")
    parser.add_argument("--cxr-root", help="folder of the X-ray paths (default: the dataset's)")
    parser.add_argument("--batch-size", type=int, default=32, help="inputs an encoder sees at once (default: 32)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read files (default: 0)")
    parser.add_argument(
        "--max-rejected", type=float, default=0.01, help="share of rows that may be unusable (default: 0.01)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; started by torchrun, each process takes its own")
    parser.epilog = "On several devices: torchrun --nproc-per-node 8 -m medtvt_training.cli cache --device cuda ..."


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt cache`."""
    import torch

    from modeling_medtvt.checkpoint_folder import open_checkpoint

    from ..data.feature_cache import FeatureCache
    from ..data.stored_rows import load_stored_rows

    part = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if args.device == "cuda" else args.device
    model, processor = open_checkpoint(args.model)
    model.to(device)
    cache = FeatureCache(args.out, model, processor, args.feature_dtype)
    is_launched = part[1] > 1
    if is_launched and not torch.distributed.is_initialized():  # gloo for waiting alone, however long the others take
        torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    wait = torch.distributed.barrier if is_launched else lambda: None
    for level in args.levels:
        for split in args.splits:
            dataset = load_stored_rows(
                args.data,
                level,
                split,
                args.out,
                processor,
                ecg_root=args.ecg_root,
                cxr_root=args.cxr_root,
                max_rejected=args.max_rejected,
                part=part,
                wait=wait,
            )
            cache.build(
                dataset, args.batch_size, args.num_workers, args.max_rejected, progress=part[0] == 0, part=part
            )
            if part[0] == 0:
                print(f"{level}/{split}: {len(dataset)} rows")
