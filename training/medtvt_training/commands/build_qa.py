# SPDX-License-Identifier: Apache-2.0
"""`medtvt build-qa`: build MedTVT-QA from MIMIC, in steps that share one folder."""

import argparse
import logging
from pathlib import Path
from typing import Any

from ..mimic.access import check_outside_git


STEPS = {
    "cohort": "link ECG, X-ray and labs of each admission; assign labels and splits",
    "answers": "generate the answers with a teacher, and check each",
    "dataset": "write the accepted answers as MedTVT-QA",
    "review-export": "export a sample of answers for human review",
    "review-import": "import the reviewers' verdicts",
    "stats": "the paper's Table 4, Table 5 and Figure 2b for this build",
    "authors": "write the dataset in the authors' layout",
    "all": "cohort, answers, dataset and stats",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt build-qa`."""
    steps = parser.add_subparsers(dest="step", metavar="STEP", required=True)
    for name, summary in STEPS.items():
        step = steps.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        step.add_argument("--out", required=True, type=Path, help="folder of this build, the same for every step")
        step.add_argument("--seed", type=int, default=0, help="seed of splits, questions and samples (default: 0)")
        step.add_argument(
            "--open-data",
            action="store_true",
            help="all source data are open (MIMIC demo, synthetic); --out may then be inside a git repository",
        )
        if name in ("cohort", "all"):
            _add_cohort_arguments(step)
        if name in ("answers", "all"):
            _add_teacher_arguments(step)
        if name in ("dataset", "authors", "all"):
            step.add_argument(
                "--name", default="dataset", help="name of the dataset's folder in --out (default: dataset)"
            )
        if name == "review-export":
            step.add_argument("--number", type=int, default=50, help="number of answers (default: 50)")
        if name == "review-import":
            step.add_argument("--file", required=True, type=Path, help="the filled-in review.csv")


def _add_cohort_arguments(step: argparse.ArgumentParser) -> None:
    step.add_argument("--mimic-iv", required=True, type=Path, help="folder of MIMIC-IV (with hosp/)")
    step.add_argument("--mimic-ecg", type=Path, help="folder of MIMIC-IV-ECG; without it there are no ECGs")
    step.add_argument("--mimic-cxr", type=Path, help="folder of MIMIC-CXR-JPG; without it there are no X-rays")
    step.add_argument("--cxr-reports", type=Path, help="folder of MIMIC-CXR's reports (default: --mimic-cxr)")
    step.add_argument(
        "--rules", choices=["symile", "paper"], default="symile", help="time windows and selection rules"
    )
    step.add_argument(
        "--codes", choices=["corrected", "paper"], default="corrected", help="code set of the seven diseases"
    )
    step.add_argument(
        "--labels", choices=["diagnoses", "ext-icd"], default="diagnoses", help="source of the diagnosis codes"
    )
    step.add_argument("--ext-icd", type=Path, help="folder of MIMIC-IV-ECG-Ext-ICD, for --labels ext-icd")
    step.add_argument("--ext-icd-column", default="all_diag_all", help="its column of codes (default: all_diag_all)")
    step.add_argument(
        "--shares",
        type=float,
        nargs=3,
        default=[0.8, 0.1, 0.1],
        help="shares of patients in train, validation and test (default: 0.8 0.1 0.1)",
    )
    step.add_argument(
        "--allow-lab-mismatch",
        action="store_true",
        help="skip labs whose MIMIC item id has another label in this release",
    )
    step.add_argument("--memory", default="3GB", help="DuckDB's memory limit (default: 3GB)")
    step.add_argument("--threads", type=int, default=2, help="number of threads (default: 2)")


def _add_teacher_arguments(step: argparse.ArgumentParser) -> None:
    step.add_argument(
        "--teacher",
        choices=["template", "local", "openai"],
        default="template",
        help="source of the answers (default: template)",
    )
    step.add_argument("--model", help="model folder (local), or model name at the endpoint (openai)")
    step.add_argument("--endpoint", help="base URL for openai, e.g. http://127.0.0.1:8000/v1")
    step.add_argument("--api-key-file", type=Path, help="file that contains the API key")
    step.add_argument(
        "--acknowledge-data-use",
        metavar="SENTENCE",
        help="required, word for word, if the endpoint is not on this machine",
    )
    step.add_argument("--concurrency", type=int, default=8, help="concurrent requests (default: 8)")
    step.add_argument("--requests-per-minute", type=float, help="rate limit of the endpoint")
    step.add_argument(
        "--attempts",
        type=int,
        default=3,
        help="generations per question until an answer passes the checks (default: 3)",
    )


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt build-qa`."""
    logging.basicConfig(format="%(message)s")
    if not args.open_data:
        check_outside_git(args.out)
    if args.step in ("cohort", "all"):
        _run_cohort(args)
    if args.step in ("answers", "all"):
        _run_answers(args)
    if args.step in ("dataset", "all"):
        from ..files import write_text
        from ..mimic.dataset import write_dataset
        from ..sharing.cards import dataset_card

        folder = args.out / args.name
        counts = write_dataset(args.out, folder, "open" if args.open_data else "credentialed")
        write_text(str(dataset_card(folder)), folder / "README.md")
        reviewed = sum(counts["review"].values())
        review = f"{reviewed:,} answers reviewed by a person" if reviewed else "none reviewed by a person"
        print(f"{folder}: {sum(counts['rows'].values()):,} rows, {review}. Research use only.")
    if args.step in ("stats", "all"):
        from ..mimic.stats import write_stats

        print(write_stats(args.out)["figure_2b"] + f"Table 4 and Table 5 too: {args.out / 'stats' / 'stats.md'}")
    if args.step == "review-export":
        from ..mimic.review import export_review

        print(*export_review(args.out, args.number, args.seed), sep="\n")
    if args.step == "review-import":
        from ..mimic.review import import_review

        print(", ".join(f"{number} {name}" for name, number in import_review(args.out, args.file).items()))
    if args.step == "authors":
        from ..mimic.export_authors import export_authors

        counts = export_authors(args.out / args.name, args.out / f"{args.name}-authors")
        print(*(f"{file}: {number:,} records" for file, number in counts.items()), sep="\n")


def _run_cohort(args: argparse.Namespace) -> None:
    from ..mimic.cohort import build_cohort, describe_arguments, read_cohort

    folders = {
        name: getattr(args, name.replace("-", "_")) for name in ("mimic-iv", "mimic-ecg", "mimic-cxr", "ext-icd")
    }
    folders = {name: path for name, path in folders.items() if path is not None}
    folder = args.out / "cohort"
    chosen = {name: getattr(args, name) for name in ("rules", "labels", "ext_icd_column", "codes", "seed")}
    chosen["shares"] = tuple(args.shares)
    if args.step == "all" and folder.exists():  # a run that was stopped goes on
        if read_cohort(folder)[1]["arguments"] != describe_arguments(folders, **chosen):
            raise ValueError(f"{folder} was made with other arguments; choose another --out or remove it.")
        print(f"{folder} is there already and stays as it is.")
        return
    build_cohort(
        folder,
        folders,
        reports=args.cxr_reports,
        **chosen,
        allow_lab_mismatch=args.allow_lab_mismatch,
        memory=args.memory,
        threads=args.threads,
    )
    rejects = len((folder / "rejects.jsonl").read_text().splitlines())
    print((folder / "flow.md").read_text() + f"{rejects:,} remarks on single records: {folder / 'rejects.jsonl'}")


def _run_answers(args: argparse.Namespace) -> None:
    from ..mimic.answers import write_answers

    counts = write_answers(args.out, _make_teacher(args), args.seed)
    print(", ".join(f"{number:,} {name}" for name, number in counts.items()))


def _make_teacher(args: argparse.Namespace) -> Any:
    if args.teacher == "template":
        from ..mimic.template_teacher import TemplateTeacher

        return TemplateTeacher()
    from ..mimic.teachers import LocalTeacher, OpenAITeacher

    if args.attempts < 1 or args.concurrency < 1:
        raise ValueError("--attempts and --concurrency must be at least 1.")
    if not args.model or (args.teacher == "openai" and not args.endpoint):
        raise ValueError(f"--teacher {args.teacher} needs --model" + " and --endpoint." * (args.teacher == "openai"))
    if args.teacher == "local":
        return LocalTeacher(Path(args.model), attempts=args.attempts)
    return OpenAITeacher(
        args.endpoint,
        args.model,
        acknowledgment=args.acknowledge_data_use,
        api_key=args.api_key_file.read_text().strip() if args.api_key_file else None,
        concurrency=args.concurrency,
        requests_per_minute=args.requests_per_minute,
        attempts=args.attempts,
    )
