# SPDX-License-Identifier: Apache-2.0
"""
Runs transformers' common tests on our classes and holds the failures against `expected_failures.toml`.

The mixins are in the source distribution of transformers only. It is taken from the package index into `build/peer/`, in
the version that is installed; `stand_ins/` holds what it lacks and the mixins import.
"""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter, defaultdict
from pathlib import Path
from typing import IO, cast
from xml.etree import ElementTree

import transformers


HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "peer"
TESTERS = ("configuration", "modeling", "processing", "image_processing", "feature_extraction")


def fetch_mixins(version: str) -> Path:
    """The folder that holds the package `transformers_tests`: the mixins of a version and what they import."""
    folder = BUILD / version
    package = folder / "transformers_tests"
    archive = folder / f"transformers-{version}.tar.gz"
    if not archive.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", ":all:", "--dest", str(folder), f"transformers=={version}"]
        subprocess.run(command, check=True)
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(HERE / "stand_ins", package)
    prefix = f"transformers-{version}/tests/"
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            name = member.name.removeprefix(prefix)
            if member.name.startswith(prefix) and "/" not in name and name.endswith(".py"):
                (package / name).write_bytes(cast(IO[bytes], tar.extractfile(member)).read())
    return folder


def run(folder: Path, report: Path, arguments: list[str]) -> None:
    testers = [str(HERE / f"peer_{name}.py") for name in TESTERS]
    paths = [str(folder), str(folder / "transformers_tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    # an empty configuration: ours takes their marks for typing errors
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
    command += ["-q", "--tb=short", "--show-capture=no"]
    command += [f"--junitxml={report}", "--disable-warnings", *testers, *arguments]
    subprocess.run(command, env=environment, cwd=ROOT, check=False)


def read_outcomes(report: Path) -> dict[tuple[str, str], str]:
    """`pass`, `fail` or `skip` of each (tester, test); a test fails with any of its subtests, which pytest may not say."""
    outcomes: dict[tuple[str, str], str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        key = case.attrib["classname"].rsplit(".", 1)[-1], case.attrib["name"].split(" ")[0]
        failed = case.find("failure") is not None or case.find("error") is not None
        outcome = "fail" if failed else "skip" if case.find("skipped") is not None else "pass"
        if outcomes.get(key) != "fail":
            outcomes[key] = outcome
    return outcomes


def count_mixins(outcomes: dict[tuple[str, str], str], folder: Path) -> dict[str, Counter]:
    """Outcomes by the class that defines each test."""
    sys.path[:0] = [str(folder), str(folder / "transformers_tests")]
    testers = {}
    for name in TESTERS:
        testers.update(vars(importlib.import_module(f"tests.peer.peer_{name}")))
    counts: dict[str, Counter] = defaultdict(Counter)
    for (tester, test), outcome in outcomes.items():
        if tester not in testers:  # a file that could not be imported
            counts[test][outcome] += 1
            continue
        home = next((cls for cls in testers[tester].__mro__ if test in vars(cls) and cls is not testers[tester]), None)
        counts[home.__name__ if home else tester][outcome] += 1
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pytest_arguments", nargs="*", help="further arguments of pytest, after --")
    arguments = parser.parse_args().pytest_arguments
    folder = fetch_mixins(transformers.__version__)
    report = folder / "junit.xml"
    run(folder, report, arguments)
    outcomes = read_outcomes(report)
    print(f"\ntransformers {transformers.__version__}\n| mixin | pass | fail | skip |\n|---|---|---|---|")
    for mixin, counts in count_mixins(outcomes, folder).items():
        print(f"| {mixin} | {counts['pass']} | {counts['fail']} | {counts['skip']} |")
    expected = tomllib.loads((HERE / "expected_failures.toml").read_text(encoding="utf-8"))
    known = {(tester, test) for tester, reasons in expected.items() for test in reasons}
    failed = {key for key, outcome in outcomes.items() if outcome == "fail"}
    unexpected = sorted(failed - known)
    stale = sorted(key for key in known - failed if key in outcomes) if not arguments else []
    for problem, keys in (("fails", unexpected), ("is expected to fail, and does not", stale)):
        for tester, test in keys:
            print(f"{tester}.{test} {problem}")
    print(f"{len(failed & known)} expected failures, {len(unexpected)} others.")
    return 1 if unexpected or stale or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
