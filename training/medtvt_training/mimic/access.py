# SPDX-License-Identifier: Apache-2.0
"""Where credentialed data may be written."""

from pathlib import Path


def check_outside_git(folder: Path) -> None:
    """
    Raises:
        ValueError: if the folder is inside a git repository.
    """
    folder = folder.resolve()
    for parent in (folder, *folder.parents):
        if (parent / ".git").exists():
            raise ValueError(
                f"{folder} is inside the git repository {parent}, where patient data might be committed; choose a folder "
                "outside, or say --open-data if everything read is open."
            )
