# SPDX-License-Identifier: Apache-2.0
"""`medtvt card`: write a model card or a dataset card from the files of the folder."""

import argparse
from pathlib import Path

from ..files import read_json, write_text


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
    parser.add_argument(
        "--chai",
        metavar="FILE",
        help="write the applied model card of the Coalition for Health AI (XML, v0.2) instead",
    )
    parser.add_argument(
        "--stated", metavar="FILE", help="with --chai: JSON of fields that only you know, such as ModelDeveloper"
    )
    parser.add_argument(
        "--tripod", metavar="FILE", help="write the topics of TRIPOD-LLM, each with what there is, instead"
    )
    parser.add_argument("--out", help="file to write (default: README.md in the folder)")


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt card`."""
    from ..sharing.cards import dataset_card, model_card
    from ..sharing.chai import chai_card
    from ..sharing.checklist import tripod_checklist

    if args.stated and not args.chai:
        raise ValueError("--stated belongs to --chai.")
    if args.data:
        if args.metrics or args.peers or args.notes or args.chai or args.tripod:
            raise ValueError("--metrics, --peers, --notes, --chai and --tripod belong to a model, not to a dataset.")
        text = str(dataset_card(args.data, args.repo))
    elif args.chai or args.tripod:
        if args.chai:
            stated = read_json(args.stated) if args.stated else None
            write_new(chai_card(args.model, args.metrics, args.repo, stated), Path(args.chai))
        if args.tripod:
            write_new(tripod_checklist(args.model, args.metrics), Path(args.tripod))
        return
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
    write_new(text, Path(args.out or Path(args.data or args.model, "README.md")))


def write_new(text: str, path: Path) -> None:
    """Writes a file that is not there yet, and says so."""
    if path.exists():
        raise FileExistsError(f"{path} exists; name another file, or remove it.")
    write_text(text, path)
    print(f"{path}: written.")
