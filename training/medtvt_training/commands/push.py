# SPDX-License-Identifier: Apache-2.0
"""`medtvt push`: a model on the Hub, with its code and its card."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt push`."""
    parser.add_argument("--model", required=True, help="model folder; with --adapter-only, adapter folder")
    parser.add_argument("--repo", required=True, help="ORG/NAME on the Hub; made if missing")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--adapter-only", action="store_true", help="the adapter without its model")
    parser.add_argument("--base-model", help="ORG/NAME of the adapter's model, if it was trained on a local folder")
    parser.add_argument("--tag", help="version of what goes up, such as v0.1.0, as a tag")
    parser.add_argument("--dry-run", action="store_true", help="list what would go up, and stop")
    parser.add_argument(
        "--allow-credentialed-public",
        action="store_true",
        help="push weights trained on credentialed (or unknown) data to a public repository all the same",
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
