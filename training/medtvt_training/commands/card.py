# SPDX-License-Identifier: Apache-2.0
"""`medtvt card`: write a model card or a dataset card from the files of the folder."""

import argparse
from pathlib import Path

from ..files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt card`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="model or adapter folder")
    source.add_argument("--data", help="dataset folder")
    parser.add_argument(
        "--metrics",
        help="metrics.json of this model; results in folders beside it (withhold-ecg, ...) are compared with it",
    )
    parser.add_argument(
        "--peers", nargs="+", default=[], metavar="NAME=FILE", help="metrics.json of other models on the same records"
    )
    parser.add_argument("--notes", help="Markdown file to append, such as the training commands")
    parser.add_argument("--repo", help="Hub repository ORG/NAME to name in the card (default: the folder's name)")
    parser.add_argument("--out", help="file to write (default: README.md in the folder)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt card`."""
    from ..sharing.cards import dataset_card, model_card

    if args.data:
        if args.metrics or args.peers or args.notes:
            raise ValueError("--metrics, --peers and --notes belong to a model, not to a dataset.")
        text = str(dataset_card(args.data, args.repo))
    else:
        if args.peers and not args.metrics:
            raise ValueError("--peers are compared with --metrics, which is missing.")
        peers = dict(item.split("=", 1) for item in args.peers if "=" in item)
        if len(peers) != len(args.peers):
            raise ValueError(f"--peers are NAME=FILE, each name once; got {' '.join(args.peers)}.")
        card = model_card(args.model, args.metrics, args.repo, peers)
        if args.notes:
            card.content += "\n\n" + Path(args.notes).read_text(encoding="utf-8")
        text = str(card)
    path = Path(args.out or Path(args.data or args.model, "README.md"))
    if path.exists():
        raise FileExistsError(f"{path} exists; name another file with --out, or remove it.")
    write_text(text, path)
    print(f"{path}: written.")
