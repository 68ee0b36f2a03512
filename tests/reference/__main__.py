# SPDX-License-Identifier: Apache-2.0
"""
Measures curves and golden metrics anew, after a change that is meant to move them. Look at the difference before it is kept.

    python -m tests.reference               both, in half a minute
    python -m tests.reference golden        after new weights are shipped
    python -m tests.reference curves        after a stage changed
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import curves, golden


FOLDER = Path(__file__).parent
MEASURED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "curves": curves.run_curves,
    "golden": golden.evaluate_shipped,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help=f"{' or '.join(MEASURED)} (default: both)")
    which = parser.parse_args().which or list(MEASURED)
    if unknown := set(which) - set(MEASURED):
        parser.error(f"{', '.join(sorted(unknown))}: accepted are {' and '.join(MEASURED)}.")
    for name in which:
        with tempfile.TemporaryDirectory() as folder:
            measured = MEASURED[name](Path(folder))
        (FOLDER / f"{name}.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
