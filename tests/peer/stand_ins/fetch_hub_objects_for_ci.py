# SPDX-License-Identifier: Apache-2.0
from pathlib import Path


FILM = Path("tests/fixtures/cxr/covid/bb0e626a.jpg")  # the tests run in the repository's root


def url_to_local_path(url: str) -> str:
    """A film of ours in place of transformers' pictures; nothing is fetched."""
    return str(FILM.resolve()) if url.endswith((".png", ".jpg")) else url
