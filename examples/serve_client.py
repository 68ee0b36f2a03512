# SPDX-License-Identifier: Apache-2.0
"""
A client of `medtvt serve`, with nothing but Python:

    medtvt serve --port 8000 &
    python examples/serve_client.py --ecg demo/ecg.hea --cxr demo/cxr.png --lab demo/lab.csv --stream
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def encode_files(path: str) -> dict[str, Any]:
    """One file or, for a WFDB header, all files of its record."""
    file = Path(path)
    beside = [
        other for other in sorted(file.parent.glob(f"{file.stem}.*")) if other.suffix in (".hea", ".dat", ".mat")
    ]
    files = beside if file.suffix == ".hea" else [file]
    return {"files": {one.name: base64.b64encode(one.read_bytes()).decode() for one in files}}


def post(url: str, body: dict[str, Any]) -> Iterator[bytes]:
    """The lines of the answer. What the server refuses is an `urllib.error.HTTPError` with a JSON body."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=600) as response:
        yield from response


def diagnose(url: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The pipeline's result for one patient."""
    return json.loads(b"".join(post(f"{url}/v1/diagnose", inputs)))


def stream(url: str, inputs: dict[str, Any], question: str | None = None) -> Iterator[str]:
    """The answer's text as it is written."""
    content: list[dict[str, Any]] = [{"type": kind, kind: value} for kind, value in inputs.items()]
    if question:
        content.append({"type": "text", "text": question})
    body = {"messages": [{"role": "user", "content": content}], "stream": True}
    for line in post(f"{url}/v1/chat/completions", body):
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise ValueError(event["error"]["message"])
        yield event["choices"][0]["delta"].get("content", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    for modality in ("ecg", "cxr", "lab"):
        parser.add_argument(f"--{modality}", help="file")
    parser.add_argument("--question")
    parser.add_argument("--stream", action="store_true", help="print the text as it is written, and not the result")
    args = parser.parse_args()
    given = {modality: getattr(args, modality) for modality in ("ecg", "cxr", "lab")}
    inputs = {modality: encode_files(path) for modality, path in given.items() if path}
    try:
        if args.stream:
            for piece in stream(args.url, inputs, args.question):
                print(piece, end="", flush=True)
            print()
        else:
            asked = {"question": args.question} if args.question else {}
            print(json.dumps(diagnose(args.url, {**inputs, **asked}), indent=2))
    except urllib.error.HTTPError as error:
        sys.exit(json.loads(error.read())["error"]["message"])


if __name__ == "__main__":
    main()
