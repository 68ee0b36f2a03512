# SPDX-License-Identifier: Apache-2.0
"""`medtvt convert`: convert a checkpoint of the authors."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt convert`."""
    parser.add_argument(
        "--checkpoint", required=True, help="the authors' .pth file (PT, SFT) or pytorch_model.bin (RFT)"
    )
    parser.add_argument("--params", required=True, help="Meta's params.json")
    parser.add_argument("--tokenizer", required=True, help="Meta's tokenizer.model of Llama 3")
    parser.add_argument("--lab-means", required=True, help="the authors' labs_means.json")
    parser.add_argument("--out", required=True, help="output folder; it must not exist, or be empty")
    parser.add_argument("--keep-lora", action="store_true", help="keep LoRA as a PEFT adapter instead of merging it")
    parser.add_argument(
        "--require-perception", action="store_true", help="refuse a checkpoint without perception layer (PT)"
    )


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt convert`."""
    from modeling_medtvt.convert_medtvt_weights_to_hf import BASE_FOLDER, convert_checkpoint

    dropped = convert_checkpoint(
        args.checkpoint,
        args.params,
        args.tokenizer,
        args.lab_means,
        args.out,
        keep_lora=args.keep_lora,
        require_perception=args.require_perception,
    )
    for reason, names in dropped.items():
        print(f"Left out, {reason}: {len(names)} tensors")
        for name in names:
            print(f"  {name}")
    lora = f"kept as an adapter on {Path(args.out) / BASE_FOLDER}" if args.keep_lora else "merged"
    print(f"Every other tensor was converted, LoRA {lora}. Written to {args.out}")
