# SPDX-License-Identifier: Apache-2.0
"""`medtvt push`: upload a model with its code and card to the Hub."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt push`."""
    parser.add_argument("--model", required=True, help="model folder, or adapter folder with --adapter-only")
    parser.add_argument("--repo", required=True, help="Hub repository ORG/NAME; created if missing")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--adapter-only", action="store_true", help="upload the adapter without its base model")
    parser.add_argument(
        "--base-model", help="ORG/NAME of the base model, if the adapter was trained on a local folder"
    )
    parser.add_argument("--tag", help="git tag for this version, such as v0.1.0")
    parser.add_argument("--dry-run", action="store_true", help="list the files, upload nothing")
    parser.add_argument(
        "--allow-credentialed-public",
        action="store_true",
        help="allow a public repository although the training data are credentialed or unknown",
    )


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt push`."""
    from ..sharing.push import push

    push(
        args.model,
        args.repo,
        private=args.private,
        adapter_only=args.adapter_only,
        base_model=args.base_model,
        tag=args.tag,
        dry_run=args.dry_run,
        allow_credentialed_public=args.allow_credentialed_public,
    )
