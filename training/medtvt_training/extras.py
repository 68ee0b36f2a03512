# SPDX-License-Identifier: Apache-2.0
"""Whether the packages of an extra are installed, asked before anything that needs them is imported."""

from importlib import metadata

from packaging.requirements import Requirement


DISTRIBUTION = "medtvt-r1"


def missing_packages(extra: str) -> list[str]:
    """Names of the packages that an extra brings and that are not installed."""
    try:
        requirements = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return []
    missing = []
    for requirement in requirements:
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
            continue
        if requirement.name == DISTRIBUTION:
            missing += [name for part in sorted(requirement.extras) for name in missing_packages(part)]
        else:
            try:
                metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                missing.append(requirement.name)
    return missing


def require_extra(extra: str, what: str) -> None:
    """
    Args:
        extra (`str`): Name of an extra in setup.cfg.
        what (`str`): What needs it, for the error.

    Raises:
        ImportError: if a package of the extra is not installed.
    """
    if missing := missing_packages(extra):
        raise ImportError(
            f"{what} needs the extra `{extra}` ({', '.join(missing)} not installed): pip install '{DISTRIBUTION}[{extra}]'."
        )
