# SPDX-License-Identifier: Apache-2.0
"""The version of the packages, which the metadata of the installation hold."""

from importlib.metadata import PackageNotFoundError, version


def find_version() -> str:
    """As in setup.cfg; "unknown" where the packages are imported without being installed."""
    try:
        return version("medtvt-r1")
    except PackageNotFoundError:
        return "unknown"
