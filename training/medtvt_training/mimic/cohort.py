# SPDX-License-Identifier: Apache-2.0
"""
Links ECG, X-ray and labs of each admission, labels it, and counts every step.

Windows and tie-breaks are those of Symile-MIMIC: an ECG and labs from 24 h before to 24 h after admission, an AP or PA
film later than 24 h and up to 72 h after it, each time the earliest one that can be used; PA goes before AP, then the
smaller id. The paper's own words are "the first 24 h": `rules="paper"` begins at admission, and keeps admissions with
at least one of the seven diseases.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from modeling_medtvt import DISEASES
from modeling_medtvt.output_folder import check_new_folder, new_folder
from processing_medtvt import MedTVTEcgFeatureExtractor, load_cxr
from processing_medtvt.feature_extraction_medtvt_ecg import read_path
from processing_medtvt.lab_definitions_medtvt import LabDefinition

from ..data.schema import LAB_NAMES, SPLITS
from .codes import convert_to_icd10, disease_of, label_diseases
from .cxr_reports import read_report, report_path
from .ecg_statements import clean_statements, measure
from .lab_flags import read_lab
from .tables import CHEXPERT_LABELS, MEASURES, REPORT_COLUMNS, MimicTables


RULES = ("symile", "paper")
LABEL_SOURCES = ("diagnoses", "ext-icd")
EXT_ICD_COLUMNS = ("all_diag_all", "all_diag_hosp", "hosp_diag_hosp", "ed_diag_hosp", "ed_diag_ed")
SPLIT_SHARES = (0.8, 0.1, 0.1)
_WINDOW_START = {"symile": -24, "paper": 0}  # hours from admission, of ECG and labs
_READING = pa.struct({"value": pa.float64(), "low": pa.float64(), "high": pa.float64(), "flag": pa.string()})
_STRINGS = pa.list_(pa.string())
COHORT_SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "hadm_id": pa.int64(),
        "split": pa.string(),
        "admittime": pa.timestamp("us"),
        "age": pa.int64(),
        "gender": pa.string(),
        "ecg_study_id": pa.int64(),
        "ecg_time": pa.timestamp("us"),
        "ecg_path": pa.string(),
        "ecg_statements": _STRINGS,
        "ecg_labels": _STRINGS,
        "ecg_measures": pa.struct({name: pa.float64() for name in ("rate", "pr", "qrs", "qt", "qrs_axis")}),
        "cxr_study_id": pa.int64(),
        "cxr_dicom_id": pa.string(),
        "cxr_time": pa.timestamp("us"),
        "cxr_view": pa.string(),
        "cxr_path": pa.string(),
        "cxr_report": pa.string(),
        "cxr_labels": pa.struct({name: pa.float64() for name in CHEXPERT_LABELS}),
        "labs": pa.struct(dict.fromkeys(LAB_NAMES, _READING)),
        "codes": _STRINGS,
        "paper_codes": _STRINGS,
        "diseases": _STRINGS,
    }
)


class Flow:
    """The selection steps, each with the admissions and patients that remain, and what was left out and why."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.rejects: list[dict[str, str]] = []
        self.labels: dict[str, int] = {}

    def step(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Counts what remains after a step."""
        rows = list(rows)
        before = self.steps[-1]["admissions_out"] if self.steps else len(rows)
        self.steps.append(
            {
                "step": name,
                "admissions_in": before,
                "admissions_out": len(rows),
                "left_out": before - len(rows),
                "patients_out": len({row["subject_id"] for row in rows}),
            }
        )

    def reject(self, kind: str, key: object, reason: str) -> None:
        """Lists one record that was not used."""
        self.rejects.append({"table": kind, "key": str(key), "reason": reason})

    def to_markdown(self) -> str:
        """The flow table."""
        lines = ["| step | admissions in | left out | admissions out | patients out |", "|---|--:|--:|--:|--:|"]
        for step in self.steps:
            numbers = (step[key] for key in ("admissions_in", "left_out", "admissions_out", "patients_out"))
            lines.append(f"| {step['step']} | {' | '.join(f'{number:,}' for number in numbers)} |")
        return "\n".join(lines) + "\n"


def build_cohort(
    output_dir: Path,
    folders: dict[str, Path],
    *,
    reports: Path | None = None,
    rules: str = "symile",
    labels: str = "diagnoses",
    ext_icd_column: str = "all_diag_all",
    codes: str = "corrected",
    seed: int = 0,
    shares: tuple[float, float, float] = SPLIT_SHARES,
    allow_lab_mismatch: bool = False,
    memory: str = "3GB",
    threads: int = 2,
) -> Path:
    """
    Writes a cohort folder: `cohort.parquet` (one admission a row), `flow.md`, `flow.json`, `rejects.jsonl`, `build.json`.

    Args:
        folders (`dict[str, Path]`): `mimic-iv`, and `mimic-ecg`, `mimic-cxr` as far as wanted: an admission must have
            every modality whose folder is given, and labs. `ext-icd` for `labels="ext-icd"`.
        reports (`Path`, *optional*): Root of the MIMIC-CXR reports (`files/p10/...txt`).
        rules, labels, ext_icd_column, codes (`str`): See [`RULES`], [`LABEL_SOURCES`], [`EXT_ICD_COLUMNS`], `CODE_SETS`.
        seed (`int`), shares (`tuple`): A patient's split depends on them and on `subject_id` alone.
        memory (`str`), threads (`int`): Limits of DuckDB; `threads` also reads signals and pictures.

    Raises:
        FileNotFoundError: if a folder or a table is missing. Names it.
        ValueError: if a column is missing, an item id has another label in this release, or nothing remains.
        FileExistsError: if `output_dir` exists and is not empty.
    """
    _check_arguments(folders, reports, rules, labels, ext_icd_column, shares)
    check_new_folder(output_dir)
    flow = Flow()
    with new_folder(output_dir) as out:
        tables = MimicTables(folders, out / ".duckdb", memory, threads)
        usable_labs = tables.check_labitems(allow_lab_mismatch)
        rows = _load_admissions(tables, flow)
        rows = _link_signals(tables, rows, folders, reports, _WINDOW_START[rules], flow, threads)
        rows = _link_labs(tables, rows, usable_labs, _WINDOW_START[rules], flow)
        _label(tables, rows, labels, ext_icd_column, codes, flow)
        if rules == "paper":
            rows = [row for row in rows if row["diseases"]]
            flow.step("at least one of the seven diseases", rows)
        flow.rejects = tables.problems + flow.rejects
        if not rows:
            raise ValueError(f"No admission passes every step:\n{flow.to_markdown()}")
        for row in rows:
            row["split"] = draw_split(row["subject_id"], seed, shares)
        check_splits(rows)
        rows.sort(key=lambda row: (row["subject_id"], row["admittime"], row["hadm_id"]))
        arguments = describe_arguments(folders, rules, labels, ext_icd_column, codes, seed, shares)
        _write(out, rows, flow, {"arguments": arguments, "files": tables.describe_files()})
        tables.connection.close()
        for spilled in (out / ".duckdb").glob("*"):
            spilled.unlink()
        if (out / ".duckdb").exists():
            (out / ".duckdb").rmdir()
    return Path(output_dir)


def describe_arguments(
    folders: Iterable[str],
    rules: str,
    labels: str,
    ext_icd_column: str,
    codes: str,
    seed: int,
    shares: Iterable[float],
) -> dict[str, Any]:
    """What decides which admissions a cohort holds, as in its `build.json`."""
    return {
        "rules": rules,
        "labels": labels if labels == "diagnoses" else f"{labels}:{ext_icd_column}",
        "codes": codes,
        "seed": seed,
        "shares": list(shares),
        "modalities": [name for name in ("ecg", "cxr", "lab") if name == "lab" or f"mimic-{name}" in folders],
    }


def _check_arguments(
    folders: dict[str, Path],
    reports: Path | None,
    rules: str,
    labels: str,
    ext_icd_column: str,
    shares: tuple[float, ...],
) -> None:
    for name, value, accepted in (
        ("rules", rules, RULES),
        ("labels", labels, LABEL_SOURCES),
        ("ext_icd_column", ext_icd_column, EXT_ICD_COLUMNS),
    ):
        if value not in accepted:
            raise ValueError(f"`{name}` must be one of {', '.join(accepted)}; got {value!r}.")
    for name, folder in {**folders, "reports": reports}.items():
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{name}: {folder} is no folder.")
    if labels == "ext-icd" and not {"ext-icd", "mimic-ecg"} <= set(folders):
        raise ValueError("labels 'ext-icd' are those of an ECG: they need the folders `mimic-ecg` and `ext-icd`.")
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"`shares` must be three shares of train, validation and test that sum to 1; got {shares}.")


def _load_admissions(tables: MimicTables, flow: Flow) -> list[dict[str, Any]]:
    tables.load("patients")
    tables.load("admissions")
    rows = tables.dicts(
        "SELECT a.*, p.gender, p.anchor_age + year(a.admittime) - p.anchor_year AS age, p.subject_id IS NOT NULL AS known "
        "FROM admissions a LEFT JOIN patients p USING (subject_id) ORDER BY subject_id, admittime, hadm_id"
    )
    flow.step("admissions", rows)
    kept = []
    for row in rows:
        if row["admittime"] is None or row["dischtime"] is None or row["dischtime"] < row["admittime"]:
            flow.reject("admissions", row["hadm_id"], "admitted or discharged at no readable time, or out of order")
        elif not row.pop("known"):
            flow.reject("admissions", row["hadm_id"], f"its subject_id {row['subject_id']} is not in patients")
        else:
            kept.append(row)
    flow.step("dates in order, patient known", kept)
    return kept


def _stage_admissions(tables: MimicTables, rows: list[dict[str, Any]]) -> None:
    """The admissions that remain, as the small side of the next join."""
    table = pa.table({name: [row[name] for row in rows] for name in ("subject_id", "hadm_id", "admittime")})
    table = table.cast(
        pa.schema([("subject_id", pa.int64()), ("hadm_id", pa.int64()), ("admittime", pa.timestamp("us"))])
    )
    tables.connection.register("staged", table)
    tables.run("CREATE OR REPLACE TEMP TABLE remaining AS SELECT * FROM staged")
    tables.connection.unregister("staged")


def _link_signals(
    tables: MimicTables,
    rows: list[dict[str, Any]],
    folders: dict[str, Path],
    reports: Path | None,
    start: int,
    flow: Flow,
    threads: int,
) -> list[dict[str, Any]]:
    """Films with their reports and ECGs with their statements, as far as their folders are given."""
    if "mimic-cxr" in folders:
        rows = _link_cxr(tables, rows, folders["mimic-cxr"], flow, threads)
        _read_reports(rows, reports or folders["mimic-cxr"], flow)
    if "mimic-ecg" in folders:
        rows = _link_ecg(tables, rows, folders["mimic-ecg"], start, flow, threads)
        _read_statements(tables, rows, flow)
    return rows


def _link_cxr(
    tables: MimicTables, rows: list[dict[str, Any]], folder: Path, flow: Flow, threads: int
) -> list[dict[str, Any]]:
    tables.load("metadata")
    tables.load("chexpert")
    _stage_admissions(tables, rows)
    study_time = "try_strptime(StudyDate || lpad(split_part(StudyTime, '.', 1), 6, '0'), '%Y%m%d%H%M%S') AS cxr_time"
    labels = ", ".join(f'c."{name}"' for name in CHEXPERT_LABELS)
    found = tables.dicts(
        f"SELECT r.hadm_id, m.subject_id, m.dicom_id, m.study_id, m.ViewPosition, m.cxr_time, c.study_id AS labeled, {labels} "
        f"FROM (SELECT *, {study_time} FROM metadata) m JOIN remaining r USING (subject_id) "
        "LEFT JOIN chexpert c ON m.study_id = c.study_id WHERE m.ViewPosition IN ('AP', 'PA') "
        "AND m.cxr_time > r.admittime + INTERVAL 24 HOUR AND m.cxr_time <= r.admittime + INTERVAL 72 HOUR "
        "ORDER BY r.hadm_id, m.cxr_time, m.ViewPosition DESC, m.dicom_id"
    )
    rows = _keep(rows, found, "AP or PA film more than 24 h and up to 72 h after admission", flow)
    found = [film for film in found if film["labeled"] is not None]
    rows = _keep(rows, found, "film's study has a row in the CheXpert table", flow)

    def path(film: dict[str, Any]) -> str:
        subject_id, study_id = film["subject_id"], film["study_id"]
        return f"files/p{str(subject_id)[:2]}/p{subject_id}/s{study_id}/{film['dicom_id']}.jpg"

    chosen = _first_usable(found, path, lambda name: load_cxr(folder / name), "film", flow, threads)
    rows = _keep(rows, chosen.values(), "film's file is there and readable", flow)
    for row in rows:
        film = chosen[row["hadm_id"]]
        row.update(cxr_study_id=film["study_id"], cxr_dicom_id=film["dicom_id"], cxr_time=film["cxr_time"])
        row.update(cxr_view=film["ViewPosition"], cxr_path=path(film))
        row["cxr_labels"] = {name: film[name] for name in CHEXPERT_LABELS}
    return rows


def _read_reports(rows: list[dict[str, Any]], folder: Path, flow: Flow) -> None:
    for row in rows:
        path = report_path(folder, row["subject_id"], row["cxr_study_id"])
        row["cxr_report"] = None
        try:
            row["cxr_report"] = read_report(path.read_text(encoding="utf-8", errors="replace")) or None
            reason = "the report has neither findings nor impression that stand alone; its CheXpert labels are used"
        except OSError:
            reason = "there is no report file; its CheXpert labels are used"
        if row["cxr_report"] is None:
            flow.reject("reports", row["cxr_study_id"], reason)


def _link_ecg(
    tables: MimicTables, rows: list[dict[str, Any]], folder: Path, start: int, flow: Flow, threads: int
) -> list[dict[str, Any]]:
    tables.load("record_list")
    _stage_admissions(tables, rows)
    found = tables.dicts(
        "SELECT r.hadm_id, e.subject_id, e.study_id, e.ecg_time, e.path FROM record_list e "
        f"JOIN remaining r USING (subject_id) WHERE e.ecg_time >= r.admittime + INTERVAL ({start}) HOUR "
        "AND e.ecg_time <= r.admittime + INTERVAL 24 HOUR ORDER BY r.hadm_id, e.ecg_time, e.study_id"
    )
    rows = _keep(rows, found, f"ECG from {start} h to +24 h of admission", flow)
    extractor = MedTVTEcgFeatureExtractor()

    def check(path: str) -> None:
        parts = PurePosixPath(path or "").parts
        if not parts or path.startswith("/") or ".." in parts:
            raise ValueError("its path is not one below the dataset's folder")
        recording = read_path(folder / path, "ecg")
        if np.isnan(recording.signal).any():
            raise ValueError("it has missing samples")
        if not recording.signal.any():
            raise ValueError("it is entirely zero")
        extractor(recording.signal, recording.sampling_rate, recording.leads, recording.units)

    chosen = _first_usable(found, lambda ecg: ecg["path"], check, "ECG", flow, threads)
    rows = _keep(rows, chosen.values(), "ECG's file is there and readable, no missing samples, not all zero", flow)
    for row in rows:
        ecg = chosen[row["hadm_id"]]
        row.update(ecg_study_id=ecg["study_id"], ecg_time=ecg["ecg_time"], ecg_path=ecg["path"])
    return rows


def _read_statements(tables: MimicTables, rows: list[dict[str, Any]], flow: Flow) -> None:
    """Machine statements and measurements, where the table is there (the open demo of MIMIC-IV-ECG lacks it)."""
    printed = {}
    if tables.has("machine_measurements"):
        tables.load("machine_measurements")
        wanted = ", ".join(str(row["ecg_study_id"]) for row in rows) or "NULL"
        names = ", ".join(("study_id", *REPORT_COLUMNS, *MEASURES))
        found = tables.dicts(f"SELECT {names} FROM machine_measurements WHERE study_id IN ({wanted})")
        printed = {row["study_id"]: row for row in found}
    for row in rows:
        ecg = printed.get(row["ecg_study_id"])
        if ecg is None:
            flow.reject("machine_measurements", row["ecg_study_id"], "no machine statements for this ECG")
        row["ecg_statements"] = clean_statements(ecg or {})
        row["ecg_labels"] = clean_statements(ecg or {}, keep_age_note=True)
        row["ecg_measures"] = measure(ecg or {})


def _link_labs(
    tables: MimicTables, rows: list[dict[str, Any]], usable_labs: list[LabDefinition], start: int, flow: Flow
) -> list[dict[str, Any]]:
    _stage_admissions(tables, rows)
    names = {lab.itemids[0]: lab.name for lab in usable_labs}
    itemids = ", ".join(f"'{itemid}'" for itemid in names)
    cast = {
        column: f"TRY_CAST(l.{column} AS {kind})"
        for column, kind in (
            ("valuenum", "DOUBLE"),
            ("charttime", "TIMESTAMP"),
            ("ref_range_lower", "DOUBLE"),
            ("ref_range_upper", "DOUBLE"),
        )
    }
    tables.run(
        f"""CREATE TEMP TABLE lab_rows AS
        SELECT r.hadm_id, TRY_CAST(l.itemid AS BIGINT) AS itemid, TRY_CAST(l.labevent_id AS BIGINT) AS labevent_id,
            {cast["charttime"]} AS charttime, {cast["valuenum"]} AS value, l.valueuom AS unit,
            {cast["ref_range_lower"]} AS low, {cast["ref_range_upper"]} AS high
        FROM {tables.scan("labevents")} l JOIN remaining r ON TRY_CAST(l.subject_id AS BIGINT) = r.subject_id
        WHERE l.itemid IN ({itemids}) AND l.valuenum IS NOT NULL AND ({cast["charttime"]} IS NULL OR
            {cast["charttime"]} BETWEEN r.admittime + INTERVAL ({start}) HOUR AND r.admittime + INTERVAL 24 HOUR)""",
        progress="labevents",
    )
    bad = tables.query("SELECT count(*) FROM lab_rows WHERE charttime IS NULL OR value IS NULL OR isnan(value)")[0][0]
    if bad:
        flow.reject("labevents", "charttime, valuenum", f"{bad} rows without a readable time or number")
    # the earliest; of equal times the smaller labevent_id, so that the order of the file does not matter
    found = tables.query(
        "SELECT hadm_id, itemid, (first).value, (first).unit, (first).low, (first).high FROM (SELECT hadm_id, itemid, "
        "min({charttime: charttime, id: labevent_id, value: value, unit: unit, low: low, high: high}) AS first "
        "FROM lab_rows WHERE charttime IS NOT NULL AND value IS NOT NULL AND NOT isnan(value) GROUP BY ALL) ORDER BY ALL"
    )
    tables.run("DROP TABLE lab_rows")
    readings: dict[int, dict[str, Any]] = {}
    for hadm_id, itemid, *result in found:
        reading, note = read_lab(names[itemid], *result)
        if note:
            flow.reject("labevents", f"hadm_id {hadm_id}, itemid {itemid}", note)
        if reading:
            readings.setdefault(hadm_id, {})[names[itemid]] = reading._asdict()
    rows = [row for row in rows if row["hadm_id"] in readings]
    flow.step(f"at least one of the 50 labs from {start} h to +24 h of admission", rows)
    for row in rows:
        row["labs"] = {name: readings[row["hadm_id"]].get(name) for name in LAB_NAMES}
    return rows


def _label(
    tables: MimicTables, rows: list[dict[str, Any]], labels: str, ext_icd_column: str, code_set: str, flow: Flow
) -> None:
    """Discharge codes of the admission, or of the ECG by MIMIC-IV-ECG-Ext-ICD, and the diseases that they stand for."""
    found: dict[int, list[tuple[str, int]]] = {}
    if labels == "ext-icd":
        tables.load("ext_icd", {ext_icd_column: "VARCHAR"})
        for study_id, listed in tables.query(
            f"SELECT study_id, regexp_extract_all({ext_icd_column}, '[A-Z0-9]+') FROM ext_icd"
        ):
            found[study_id] = [(code, 10) for code in listed or ()]
        key = "ecg_study_id"
    else:
        tables.load("diagnoses_icd")
        tables.load("d_icd_diagnoses")
        _stage_admissions(tables, rows)
        for hadm_id, code, version, known in tables.query(
            "SELECT DISTINCT d.hadm_id, d.icd_code, d.icd_version, EXISTS (SELECT 1 FROM d_icd_diagnoses i WHERE "
            "i.icd_code = d.icd_code AND i.icd_version = d.icd_version) FROM diagnoses_icd d JOIN remaining USING (hadm_id) "
            "WHERE d.icd_code IS NOT NULL ORDER BY ALL"
        ):
            if version not in (9, 10):
                flow.reject(
                    "diagnoses_icd", f"hadm_id {hadm_id}, {code}", f"icd_version {version} is neither 9 nor 10"
                )
                continue
            if not known and disease_of(code, version, code_set):
                flow.reject("diagnoses_icd", f"hadm_id {hadm_id}, {code}", "not in d_icd_diagnoses; used all the same")
            found.setdefault(hadm_id, []).append((code, version))
        key = "hadm_id"
    for row in rows:
        codes = found.get(row[key], [])
        if not codes:
            flow.reject(labels, row[key], "no diagnosis code: labeled with none of the seven")
        row["diseases"] = label_diseases(codes, code_set)
        row["codes"] = sorted(f"{version}:{code}" for code, version in codes if disease_of(code, version, code_set))
        converted = {convert_to_icd10(code, version) for code, version in codes if disease_of(code, version, "paper")}
        row["paper_codes"] = sorted(code for code in converted if code is not None)
    flow.labels = {disease: sum(disease in row["diseases"] for row in rows) for disease in DISEASES}
    flow.labels["none of the seven"] = sum(not row["diseases"] for row in rows)


def _keep(
    rows: list[dict[str, Any]], candidates: Iterable[dict[str, Any]], name: str, flow: Flow
) -> list[dict[str, Any]]:
    hadm_ids = {candidate["hadm_id"] for candidate in candidates}
    rows = [row for row in rows if row["hadm_id"] in hadm_ids]
    flow.step(name, rows)
    return rows


def _first_usable(
    candidates: list[dict[str, Any]],
    path: Callable[[dict[str, Any]], str],
    check: Callable[[str], object],
    kind: str,
    flow: Flow,
    threads: int,
) -> dict[int, dict[str, Any]]:
    """Of each admission's candidates, in their order, the first whose file passes; the others are listed."""

    def problem(candidate: dict[str, Any]) -> str | None:
        try:
            check(path(candidate))
            return None
        except (ValueError, TypeError, OSError, ImportError) as error:
            # without the path of this machine
            return (
                "its file is absent" if isinstance(error, FileNotFoundError) else f"unusable: {type(error).__name__}"
            )

    def choose(group: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
        rejected: list[tuple[str, str]] = []
        for candidate in group:
            reason = problem(candidate)
            if reason is None:
                return candidate, rejected
            rejected.append((path(candidate), reason))
        return None, rejected

    groups = [list(group) for _, group in groupby(candidates, key=lambda candidate: candidate["hadm_id"])]
    chosen, seen = {}, set()
    with ThreadPoolExecutor(threads) as pool:
        for group, (candidate, rejected) in zip(groups, tqdm(pool.map(choose, groups), f"{kind} files", len(groups))):
            for name, reason in rejected:
                if name not in seen:
                    flow.reject(kind, name, reason)
                seen.add(name)
            if candidate is not None:
                chosen[group[0]["hadm_id"]] = candidate
    return chosen


def draw_split(subject_id: int, seed: int, shares: tuple[float, float, float] = SPLIT_SHARES) -> str:
    """A patient's split. It depends on nobody else, so that two builds never have a patient on two sides."""
    digest = hashlib.sha256(f"{seed}:{subject_id}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    limits = np.cumsum(shares[:2])
    return SPLITS[int(np.searchsorted(limits, position, side="right"))]


def check_splits(rows: list[dict[str, Any]]) -> None:
    """
    Raises:
        ValueError: if a patient, an ECG or a film is in two splits.
    """
    for key in ("subject_id", "ecg_study_id", "cxr_dicom_id"):
        splits: dict[Any, set[str]] = {}
        for row in rows:
            if row.get(key) is not None:
                splits.setdefault(row[key], set()).add(row["split"])
        leaks = [str(value) for value, found in splits.items() if len(found) > 1]
        if leaks:
            raise ValueError(f"{len(leaks)} values of {key} are in more than one split.")


def _write(out: Path, rows: list[dict[str, Any]], flow: Flow, build: dict[str, Any]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=COHORT_SCHEMA), out / "cohort.parquet")
    build["splits"] = {split: sum(row["split"] == split for row in rows) for split in SPLITS}
    build["labels_before_selection"] = flow.labels
    (out / "flow.md").write_text(flow.to_markdown())
    (out / "flow.json").write_text(json.dumps(flow.steps, indent=2) + "\n")
    (out / "rejects.jsonl").write_text("".join(json.dumps(reject) + "\n" for reject in flow.rejects))
    (out / "build.json").write_text(json.dumps(build, indent=2) + "\n")


def read_cohort(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """
    The admissions of a cohort folder and its `build.json`.

    Raises:
        FileNotFoundError: if it is none.
    """
    if not (folder / "cohort.parquet").is_file() or not (folder / "build.json").is_file():
        raise FileNotFoundError(f"{folder} holds no cohort; `medtvt build-qa cohort` writes one.")
    return pq.read_table(folder / "cohort.parquet").to_pylist(), json.loads((folder / "build.json").read_text())
