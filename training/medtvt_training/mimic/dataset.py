# SPDX-License-Identifier: Apache-2.0
"""From the accepted answers to MedTVT-QA: the schema's Parquet files with the ids of every join, and how they were made."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value

from modeling_medtvt.output_folder import new_folder

from ..data.schema import FEATURES, LAB_NAMES, LEVELS, SEXES, SPLITS
from .answers import read_answers
from .cohort import read_cohort
from .prompts import TEMPLATES, Request, make_requests
from .review import digest, read_verdicts
from .verify import split_parts


ID_FEATURES = Features(
    {
        "hadm_id": Value("int64"),
        "ecg_study_id": Value("int64"),
        "cxr_study_id": Value("int64"),
        "cxr_dicom_id": Value("string"),
        "split": Value("string"),
        "codes": FEATURES["diseases"],
        "teacher": Value("string"),
        "reviewed": Value("bool"),
        "access": Value("string"),
    }
)


def write_dataset(
    build: Path, output_dir: Path, access: str = "credentialed", templates: Path = TEMPLATES
) -> dict[str, Any]:
    """
    Writes `{physiology,diagnosis}/{train,validation,test}.parquet`, `counts.json`, and `build.md`: terms, sources, cohort,
    teacher and limits, which [`~medtvt_training.sharing.cards.dataset_card`] takes into the folder's card. The paths `ecg` and
    `cxr` are relative to the roots of MIMIC-IV-ECG and MIMIC-CXR-JPG (`ecg_root`, `cxr_root` of `load_medtvt_qa`).

    Args:
        access (`str`): `"credentialed"` or `"open"`, written to every row.

    Returns:
        `dict`: rows by level and split, verdicts, and patients and admissions by split.
    """
    rows, cohort = read_cohort(build / "cohort")
    result, texts = read_answers(build)
    verdicts = read_verdicts(build)
    teacher = "/".join(str(result["teacher"][name]) for name in ("teacher", "model") if name in result["teacher"])
    chosen: dict[tuple[str, str], list[dict[str, Any]]] = {(level, split): [] for level in LEVELS for split in SPLITS}
    used: Counter[str] = Counter()
    for request in make_requests(rows, result["seed"], templates):
        text = texts.get(request.id)
        if text is None:
            continue
        verdict = verdicts.get((request.id, digest(text)))
        if verdict:
            used[verdict["verdict"]] += 1
            if verdict["verdict"] == "reject":
                continue
            text = verdict["answer"]
        row = {**_make_row(request, text), "teacher": teacher, "reviewed": bool(verdict), "access": access}
        chosen[request.level, request.row["split"]].append(row)
    counts = {
        "rows": {f"{level}/{split}": len(found) for (level, split), found in chosen.items()},
        "admissions": dict(Counter(row["split"] for row in rows)),
        "patients": {split: len({row["subject_id"] for row in rows if row["split"] == split}) for split in SPLITS},
        "review": {"accepted": used["accept"], "edited": used["edit"], "rejected": used["reject"]},
    }
    with new_folder(output_dir) as folder:
        schema = Features({**FEATURES, **ID_FEATURES}).arrow_schema
        for (level, split), found in chosen.items():
            (folder / level).mkdir(exist_ok=True)
            pq.write_table(pa.Table.from_pylist(found, schema=schema), folder / level / f"{split}.parquet")
        (folder / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
        flow = (build / "cohort" / "flow.md").read_text()
        (folder / "build.md").write_text(_describe_build(cohort, result, counts, access, flow))
    return counts


def _make_row(request: Request, text: str) -> dict[str, Any]:
    admission = request.row
    labs = {name: reading and reading["value"] for name, reading in admission["labs"].items()}
    return {
        "id": request.id,
        "subject_id": str(admission["subject_id"]),
        "age": admission["age"],
        "sex": admission["gender"] if admission["gender"] in SEXES else None,
        "level": request.level,
        "modalities": request.modalities,
        "prompt": [{"role": "user", "content": request.question}],
        "completion": [{"role": "assistant", "content": split_parts(text, request)}],
        "ecg": admission["ecg_path"] if "ecg" in request.modalities else None,
        "cxr": admission["cxr_path"] if "cxr" in request.modalities else None,
        "lab": labs if "lab" in request.modalities else dict.fromkeys(LAB_NAMES),
        "diseases": admission["diseases"],
        "findings": [finding for evidence in request.evidence.values() for finding in evidence.findings],
        **{
            name: admission[name]
            for name in ("hadm_id", "ecg_study_id", "cxr_study_id", "cxr_dicom_id", "split", "codes")
        },
    }


def _describe_build(
    cohort: dict[str, Any], result: dict[str, Any], counts: dict[str, Any], access: str, flow: str
) -> str:
    arguments = cohort["arguments"]
    sources: dict[str, list[str]] = {}
    for file in cohort["files"]:
        version = file["version"] or "version not stated by the folder's name"
        sources.setdefault(file["source"], []).append(f"{file['file']} ({version}, {file['bytes']:,} bytes)")
    terms = {
        "credentialed": (
            "Derived from credentialed data. It inherits the PhysioNet Credentialed Health Data Use Agreement and may be "
            "shared through PhysioNet only, under a name with `Ext`; so may models trained on it and tables fitted to it."
        ),
        "open": (
            "Derived from open data (as declared by whoever built it). MIMIC-IV Clinical Database Demo, MIMIC-IV-ECG: ODbL "
            "1.0, attribution and share-alike."
        ),
    }
    reviewed = sum(counts["review"].values())
    people = "\n".join(
        f"| {split} | {counts['patients'][split]:,} | {counts['admissions'].get(split, 0):,} |" for split in SPLITS
    )
    return f"""## Terms

{terms[access]}

## Sources

{chr(10).join(f"- {source}: {', '.join(files)}" for source, files in sources.items())}

## Cohort

Rules `{arguments["rules"]}`, labels `{arguments["labels"]}`, code set `{arguments["codes"]}`, modalities {", ".join(arguments["modalities"])}.
Splits by patient, seed {arguments["seed"]}, shares {arguments["shares"]}; no patient, ECG or film is in two of them.

{flow}
| split | patients | admissions |
|---|--:|--:|
{people}

## Answers

Teacher: `{json.dumps(result["teacher"], sort_keys=True)}`, {"on a remote endpoint" if result["remote"] else "on the builder's machine"}. Human review: {f"{reviewed:,} rows" if reviewed else "**not done**"} ({counts["review"]["accepted"]} accepted, {counts["review"]["edited"]} edited, {counts["review"]["rejected"]} rejected).

## Known limits

- Labels are discharge codes of the whole stay; ECG, film and labs are of its first days, so a disease may begin later.
- ECG statements are a machine's, CheXpert labels a program's; both err. Labs may be missing; H, L and I are specimen
  indices, not blood tests, and are never narrated.
- One hospital, adults admitted to it; dates are shifted and ages above 89 capped.

## Cite

MIMIC-IV, MIMIC-IV-ECG, MIMIC-CXR-JPG, MIMIC-CXR, PhysioNet, Symile-MIMIC (cohort rules), MIMIC-IV-ECG-Ext-ICD where used,
MedTVT-R1 (arXiv 2506.18512).
"""
