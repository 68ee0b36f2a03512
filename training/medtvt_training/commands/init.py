# SPDX-License-Identifier: Apache-2.0
"""`medtvt init`: create a model, tiny or from pretrained parts."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt init`."""
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--tiny", metavar="OUT", help="write a tiny model (8 MB) with random weights")
    target.add_argument("--out", help="write a model from the parts below; other parts get random weights")
    parser.add_argument("--text", help="decoder LM: Hub id, folder, or folder with one .gguf file (extra gguf)")
    parser.add_argument("--cxr", help="X-ray encoder: a Hub id or folder of a ViT or of a timm backbone")
    parser.add_argument("--ecg", help="ECG encoder: checkpoint of ECGFM-KED (`ecg_model`)")
    parser.add_argument("--lab", help="laboratory encoder: checkpoint of Symile (`labs_encoder.*`)")
    parser.add_argument("--num-modality-tokens", type=int, default=1, help="tokens per modality (default: 1)")
    parser.add_argument(
        "--gate-form",
        choices=["scale", "absent"],
        default="scale",
        help="scale: the paper's gate; absent: one that a decoder whose first norm cancels scale sees too (default: scale)",
    )
    parser.add_argument(
        "--without-perception",
        action="store_true",
        help="no cyclic attention and no gate: the language model gets the modalities as they are projected",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt init`."""
    from ..stages.initialize import init_from_parts, init_tiny

    parts = {"text": args.text, "cxr": args.cxr, "ecg": args.ecg, "lab": args.lab}
    values = {"num_modality_tokens": args.num_modality_tokens, "gate_form": args.gate_form}
    if args.without_perception:
        if args.gate_form != "scale":
            raise ValueError("--without-perception makes a model without a gate; leave out --gate-form.")
        values |= {"use_cyclic_attention": False, "use_contribution_gate": False}
    if args.tiny:
        if given := [f"--{name}" for name, part in parts.items() if part]:
            raise ValueError(f"--tiny draws every part at random; leave out {', '.join(given)}, or use --out.")
        init_tiny(args.tiny, seed=args.seed, **values)
        print(f"{args.tiny}: a tiny MedTVT-R1 with random weights. Its answers mean nothing until it is trained.")
        return
    init_from_parts(args.out, **parts, seed=args.seed, **values)
    for name, part in parts.items():
        print(f"{name:<5}{part or 'random weights'}")
    drawn = "projectors have" if args.without_perception else "projectors and perception layer have"
    print(f"{args.out}: {drawn} random weights. Its answers mean nothing until it is trained.")
