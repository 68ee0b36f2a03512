# SPDX-License-Identifier: Apache-2.0
"""Many patients through the pipeline: answers as they come, a list of those who have none, and a page each."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tqdm.auto import tqdm
from transformers import set_seed

from modeling_medtvt import DISEASES, MedicalDiagnosisPipeline
from processing_medtvt.report_medtvt import RESEARCH_USE, render_report

from ..data.rows import Reject
from ..files import JsonlLog, fingerprint, keep_header, write_bytes, write_csv, write_json
from .fhir import to_diagnostic_report
from .patient_table import PATHS, TablePatient


REPORT_KEYS = (*PATHS, "sampling_rate", "leads", "unit")


class BatchCounts(NamedTuple):
    """How many patients were answered in this run, how many before it, and how many cannot be."""

    answered: int
    before: int
    rejected: int


class Batch:
    """
    A run over a table of patients. Each answer is in the file when the next patient comes, so a run that was stopped goes
    on where it was: it answers who has no answer yet, the rejected ones among them.

    Args:
        diagnose ([`MedicalDiagnosisPipeline`]): Answers.
        patients (`Sequence[TablePatient]`): From [`read_patient_table`].
        out (`str` or `os.PathLike`): JSON lines, one a patient: `id`, `row` (a fingerprint of what the table says), and
            the result of the pipeline. Beside it lie NAME.run.json, what the answers are of, and NAME.rejects.jsonl, `id`,
            `path` and `reason` of each patient whose inputs cannot be used.
        header (`dict`): What must be the same for a run to go on, such as the model's hash and the settings.
        html_dir, fhir_dir (`str` or `os.PathLike`, *optional*): Folders for a report a patient, named by the id: as a
            page, and as [`to_diagnostic_report`] makes it.
        about (`dict[str, str]`, *optional*): What reports say of the model.
    """

    def __init__(
        self,
        diagnose: MedicalDiagnosisPipeline,
        patients: Sequence[TablePatient],
        out: str | os.PathLike,
        header: Mapping[str, Any],
        html_dir: str | os.PathLike | None = None,
        about: Mapping[str, str] | None = None,
        fhir_dir: str | os.PathLike | None = None,
    ) -> None:
        self.diagnose, self.patients, self.out = diagnose, patients, Path(out)
        self.header = {"notice": RESEARCH_USE, **header}
        self.html_dir = None if html_dir is None else Path(html_dir)
        self.fhir_dir = None if fhir_dir is None else Path(fhir_dir)
        self.about = about
        self.header_file = self.out.with_suffix(".run.json")
        self.rejects_file = self.out.with_suffix(".rejects.jsonl")
        self.results: dict[str, dict[str, Any]] = {}
        self.rejects: list[Reject] = []

    def run(self, batch_size: int = 8, seed: int | None = None, **settings: Any) -> BatchCounts:
        """
        Answers who has no answer yet.

        Args:
            batch_size (`int`): Patients a batch.
            seed (`int`, *optional*): Of answers that are drawn. With it patients go one by one, so that what is drawn
                depends neither on the batch nor on where a run was stopped.
            **settings: Keywords of the pipeline, such as `num_samples`.

        Raises:
            ValueError: if `out` is of another run, or no patient can be answered.
            OSError: if another run writes there, or a file cannot be written.
        """
        with JsonlLog(self.out) as log:
            self._take_up(log.records)
            before = len(self.results)
            pending = [patient for patient in self.patients if patient.id not in self.results]
            progress = tqdm(total=len(self.patients), initial=before, unit=" patients")
            with progress, open(self.rejects_file, "w", encoding="utf-8") as rejects:
                for patient, result in self._answer(pending, batch_size, seed, settings):
                    if "error" in result:
                        self.rejects.append(_make_reject(patient, result["error"]))
                        rejects.write(json.dumps(self.rejects[-1]) + "\n")
                        rejects.flush()
                    else:
                        self._write_reports(patient, result)
                        log.append([{"id": patient.id, "row": patient.fingerprint, **result}])
                        self.results[patient.id] = result
                    progress.update()
        if not self.rejects:
            self.rejects_file.unlink()
        if not self.results:
            raise ValueError(f"None of the {len(self.patients)} patients can be answered; see {self.rejects_file}.")
        return BatchCounts(len(self.results) - before, before, len(self.rejects))

    def _take_up(self, records: Iterable[Any]) -> None:
        """Checks that the answers that are there already are of this run, and writes reports that are missing."""
        patients = {patient.id: patient for patient in self.patients}
        records = list(records)
        if records and not self.header_file.exists():
            raise ValueError(f"{self.out} exists without {self.header_file.name}, so nobody knows of what; move it.")
        keep_header(self.header, self.header_file)
        for number, record in enumerate(records, start=1):
            patient = patients.get(str(record.get("id"))) if isinstance(record, dict) else None
            if patient is None or record.get("row") != patient.fingerprint:
                raise ValueError(
                    f"{self.out}, line {number}: the patient is not in the table, or their row has changed since; choose "
                    "another file for the answers."
                )
            result = {key: value for key, value in record.items() if key not in ("id", "row")}
            self.results[patient.id] = result
            self._write_reports(patient, result)

    def _answer(
        self, patients: Sequence[TablePatient], batch_size: int, seed: int | None, settings: Mapping[str, Any]
    ) -> Iterator[tuple[TablePatient, dict[str, Any]]]:
        """Each patient with a result of the pipeline, or with `error`."""
        for patient in patients:
            if patient.problem is not None:
                yield patient, {"error": patient.problem}
        usable = [patient for patient in patients if patient.problem is None]
        if seed is not None:
            for patient in usable:
                set_seed(int(fingerprint([str(seed), patient.id])[:8], 16))
                yield patient, self.diagnose(patient.inputs, on_error="skip", **settings)
            return
        inputs = (patient.inputs for patient in usable)
        results = self.diagnose(inputs, batch_size=batch_size, on_error="skip", **settings)
        for position, (patient, result) in enumerate(zip(usable, results, strict=True)):
            if "error" in result:  # it says which of this call's items it is, which is not the row
                result = {"error": result["error"].removeprefix(f"Item {position}: ")}
            yield patient, result

    def _write_reports(self, patient: TablePatient, result: dict[str, Any]) -> None:
        """Those that are asked for and not there yet."""
        if self.fhir_dir is not None and not (file := report_file(self.fhir_dir, patient.id, ".json")).exists():
            write_json(to_diagnostic_report(result, (self.about or {}).get("Model")), file)
        if self.html_dir is None or (file := report_file(self.html_dir, patient.id)).exists():
            return
        inputs = {key: patient.inputs[key] for key in REPORT_KEYS if key in patient.inputs}
        page = render_report(
            result, self.diagnose.processor, **inputs, about={"Patient": patient.id, **(self.about or {})}
        )
        write_bytes(page.encode(), file)

    def write_table(self, path: str | os.PathLike) -> None:
        """
        One line a patient, in the table's order: `id`; the seven diseases, 1 where named, 0 where not, empty where there is
        no answer; their probabilities where the model is calibrated, whether they are undecided where that was asked, their
        scores where answers were drawn; `warnings`; and why there is no answer.
        """
        found = [disease for result in self.results.values() for disease in result["diseases"]]
        keys = [
            key
            for key in ("probability", "undecided", "score")
            if any(disease.get(key) is not None for disease in found)
        ]
        numbers = [f"{disease} {key}" for key in keys for disease in DISEASES]
        reasons = {reject["id"]: reject["reason"] for reject in self.rejects}
        rows = []
        for patient in self.patients:
            result = self.results.get(patient.id)
            by_label = {} if result is None else {disease["label"]: disease for disease in result["diseases"]}
            is_answered = result is not None and result["answer"] is not None
            named = [int(by_label[disease]["named"]) if is_answered else "" for disease in DISEASES]
            cells = [by_label[disease].get(key) if by_label else None for key in keys for disease in DISEASES]
            cells = ["" if cell is None else int(cell) if isinstance(cell, bool) else cell for cell in cells]
            warnings = "" if result is None else "; ".join(result["warnings"])
            rows.append([patient.id, *named, *cells, warnings, reasons.get(patient.id, "")])
        write_csv(["id", *DISEASES, *numbers, "warnings", "no answer because"], rows, path)


def report_file(folder: Path, patient_id: str, suffix: str = ".html") -> Path:
    """Where a patient's report is: named by the id, with %XX for whatever is no letter, digit or one of "_.-~"."""
    name = quote(patient_id, safe="")
    if len(name) > 150:
        name = f"{name[:100]}-{fingerprint([patient_id])[:16]}"  # file systems take 255 bytes
    return folder / f"{name}{suffix}"


def _make_reject(patient: TablePatient, reason: str) -> Reject:
    paths = [patient.inputs[name] for name in PATHS if name in patient.inputs]
    path = patient.path or next((path for path in paths if Path(path).name in reason), None)
    return {"id": patient.id, "path": path, "reason": reason}
