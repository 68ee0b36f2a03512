# SPDX-License-Identifier: Apache-2.0
"""
Reader of FHIR R4: an Observation, a Bundle or a list of resources, as JSON text or as dicts.

https://hl7.org/fhir/R4/observation.html. LOINC and MIMIC codings name the lab, UCUM its unit. What is no laboratory
Observation is passed over, but for the Patient, whose sex and birth date are read.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple

from .lab_panel_medtvt import LabEntry, LabPanel
from .patient_medtvt import MAX_AGE, Patient


MAX_FHIR_BYTES = 50_000_000
_LOINC_SYSTEMS = ("http://loinc.org", "https://loinc.org", "urn:oid:2.16.840.1.113883.6.1")
_UCUM_SYSTEMS = ("http://unitsofmeasure.org", "https://unitsofmeasure.org", "urn:oid:2.16.840.1.113883.6.8")
_MIMIC_ITEMS = "mimic-d-labitems"
_WITHOUT_RESULT = ("entered-in-error", "cancelled")
_MAX_DEPTH = 5  # Bundles in Bundles
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")


class _Found(NamedTuple):
    """An Observation or a Patient, and where it stands."""

    resource: Mapping[str, Any]
    place: str
    full_url: str | None


def parse_fhir(text: str, name: str) -> LabPanel:
    """
    The labs of a JSON text: one resource, a list of resources, or one resource a line.

    Args:
        name (`str`): What errors call the text.

    Raises:
        ValueError: no JSON, or as `read_fhir`.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name}: lists or objects too deep in one another.") from error
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        try:
            content = [json.loads(line) for line in lines] if len(lines) > 1 else None
        except (ValueError, RecursionError):
            content = None
        if content is None:
            raise ValueError(
                f"{name}: not readable JSON. A FHIR Observation or Bundle, or a CSV file, is needed."
            ) from error
    return read_fhir(content, name)


def read_fhir(content: Any, name: str) -> LabPanel:
    """
    The labs of FHIR resources.

    Args:
        content (`dict` or `list`): An Observation, a Bundle, another resource that contains some, or a list of these.
        name (`str`): What errors call it.

    Raises:
        ValueError: no Observation, Observations of several patients, an element that FHIR has otherwise. Errors name the
            place of the resource and quote nothing of it.
    """
    found = list(_walk(content, name, name, 0))
    observations = [item for item in found if item.resource["resourceType"] == "Observation"]
    patients = [item for item in found if item.resource["resourceType"] == "Patient"]
    if not observations:
        raise ValueError(f"{name}: no Observation of FHIR. A FHIR Observation, or a Bundle of some, is needed.")
    _check_one_patient(observations, patients, name)
    notes: list[str] = []
    entries = [entry for item in observations for entry in _read_observation(item, name, notes)]
    patient = _read_patient(patients, entries, name)
    return LabPanel(entries, list(dict.fromkeys(notes)), patient)


def _get(element: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    """An element of a resource, None where it is missing."""
    value = element.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        wanted = {dict: "an object", list: "a list", str: "text"}.get(kind, "a number")
        raise ValueError(f"{where}: `{key}` must be {wanted}.")
    return value


def _objects(element: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    items = _get(element, key, list, where) or []
    if not all(isinstance(item, Mapping) for item in items):
        raise ValueError(f"{where}: `{key}` must be a list of objects.")
    return items


def _walk(content: Any, name: str, place: str, depth: int, full_url: str | None = None) -> Iterator[_Found]:
    """Observations and Patients, in Bundles and contained ones too."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{name}: Bundles too deep in one another.")
    if isinstance(content, list):
        for number, item in enumerate(content, start=1):
            yield from _walk(item, name, f"{name}: resource {number}", depth + 1)
        return
    if not isinstance(content, Mapping) or not isinstance(content.get("resourceType"), str):
        raise ValueError(f"{place}: no resource of FHIR, which has a `resourceType`.")
    if content["resourceType"] == "Bundle":
        for number, entry in enumerate(_objects(content, "entry", place), start=1):
            where = f"{place}: entry {number}"
            if entry.get("resource") is not None:
                url = _get(entry, "fullUrl", str, where)
                yield from _walk(entry["resource"], name, where, depth + 1, url)
    elif content["resourceType"] in ("Observation", "Patient"):
        yield _Found(content, place, full_url)
    for number, item in enumerate(_objects(content, "contained", place), start=1):
        yield from _walk(item, name, f"{place}: contained {number}", depth + 1)


def _check_one_patient(observations: list[_Found], patients: list[_Found], name: str) -> None:
    """Refuses Observations of two patients, and two Patients."""
    urls = {item.full_url: _identify(item) for item in patients if item.full_url}
    stated = [(item.place, _identify(item)) for item in patients]
    for item in observations:
        subject = _get(item.resource, "subject", dict, item.place)
        if subject is None:
            continue
        reference = _get(subject, "reference", str, item.place)
        identifier = _get(subject, "identifier", dict, item.place)
        if reference is not None:
            key = urls.get(reference) or "/".join(reference.split("/_history")[0].lstrip("#").split("/")[-2:])
            stated.append((item.place, key if "/" in key or ":" in key else f"Patient/{key}"))
        elif identifier is not None and not patients:
            stated.append((item.place, f"{identifier.get('system')}|{identifier.get('value')}"))
    other = next((place for place, key in stated if key != stated[0][1]), None)
    if other is not None:
        first, second = (place.removeprefix(f"{name}: ") for place in (stated[0][0], other))
        raise ValueError(f"{name}: {second} is of another patient than {first}. One patient's labs are needed.")


def _identify(item: _Found) -> str:
    identity = _get(item.resource, "id", str, item.place)
    return f"Patient/{identity}" if identity else item.full_url or item.place


def _read_observation(item: _Found, name: str, notes: list[str]) -> Iterator[LabEntry]:
    resource, where = item.resource, item.place
    place = where.removeprefix(f"{name}: ") if where != name else "the Observation"
    status = _get(resource, "status", str, where)
    if status in _WITHOUT_RESULT:
        notes.append(f"lab: {place} left out, its status is {status}")
        return
    if status == "preliminary":
        notes.append(f"lab: {place} is preliminary")
    time, specimen = _read_time(resource, where), _get(resource, "specimen", dict, where) or {}
    parts = [(resource, place), *((part, place) for part in _objects(resource, "component", where))]
    for part, part_place in parts:
        entry = _read_value(part, where, part_place, notes)
        if entry is not None:
            yield entry._replace(time=time, specimen=_get(specimen, "display", str, where))


def _read_value(part: Mapping[str, Any], where: str, place: str, notes: list[str]) -> LabEntry | None:
    """An Observation or a component of one; None where it states neither a value nor that it has none."""
    written, code = _read_code(part, where)
    if written is None and code is None:
        if any(key.startswith("value") for key in part):
            raise ValueError(f"{where}: a value without a `code`.")
        return None
    quantity = _get(part, "valueQuantity", dict, where)
    if quantity is not None:
        return _read_quantity(quantity, written or code, code, where, place)
    for key, kind in (("valueInteger", int), ("valueString", str)):
        value = _get(part, key, kind, where)
        if value is not None:
            return LabEntry(written or code, value, code=code, place=place)
    other = next((key for key in part if key.startswith("value")), None)
    if other is not None:
        notes.append(f"lab: {place} left out, its value is no number")
        return None
    absent = _get(part, "dataAbsentReason", dict, where)
    if absent is None and ("component" in part or "hasMember" in part):
        return None
    if absent is not None:
        notes.append(f"lab: {place} has no value, as it states itself")
    return LabEntry(written or code, None, code=code, place=place)


def _read_quantity(
    quantity: Mapping[str, Any], written: str | None, code: str | None, where: str, place: str
) -> LabEntry:
    value = _get(quantity, "value", (int, float), where)
    is_ucum = _get(quantity, "system", str, where) in _UCUM_SYSTEMS
    unit, ucum = _get(quantity, "unit", str, where), _get(quantity, "code", str, where)
    comparator = _get(quantity, "comparator", str, where)
    if comparator not in (None, "<", "<=", ">", ">="):
        raise ValueError(f"{where}: the comparator is none of <, <=, > and >=.")
    return LabEntry(written, value, (ucum if is_ucum else None) or unit or ucum, comparator, None, code, place)


def _read_code(part: Mapping[str, Any], where: str) -> tuple[str | None, str | None]:
    """The name as written, and a LOINC code or MIMIC item id, where there is one."""
    concept = _get(part, "code", dict, where)
    if concept is None:
        return None, None
    written, loinc, item = _get(concept, "text", str, where), None, None
    for coding in _objects(concept, "coding", where):
        system, code = _get(coding, "system", str, where) or "", _get(coding, "code", str, where)
        written = written or _get(coding, "display", str, where)
        if system.rstrip("/") in _LOINC_SYSTEMS:
            loinc = loinc or code
        elif _MIMIC_ITEMS in system:
            item = item or code
        elif not system:
            written = written or code
    return written, loinc or item


def _read_time(resource: Mapping[str, Any], where: str) -> float | None:
    period = _get(resource, "effectivePeriod", dict, where) or {}
    stated = (
        _get(resource, "effectiveDateTime", str, where),
        _get(resource, "effectiveInstant", str, where),
        _get(period, "end", str, where),
        _get(period, "start", str, where),
        _get(resource, "issued", str, where),
    )
    text = next((text for text in stated if text), None)
    return None if text is None else _to_seconds(text)


def _to_seconds(text: str) -> float | None:
    """FHIR's dateTime, which may lack month, day and time, in seconds; None if it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        day = _to_date(text)
        if day is None:
            return None
        found = datetime(day.year, day.month, day.day)
    try:
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None


def _to_date(text: str) -> date | None:
    parts = _DATE.match(text)
    try:
        return date(int(parts[1]), int(parts[2] or 1), int(parts[3] or 1)) if parts else None
    except ValueError:
        return None


def _read_patient(patients: list[_Found], entries: list[LabEntry], name: str) -> Patient:
    """Sex, and age at the newest Observation."""
    if not patients:
        return Patient(age=None, sex=None)
    resource, where, _ = patients[0]
    gender = _get(resource, "gender", str, where)
    sexes: dict[str | None, Literal["F", "M"]] = {"female": "F", "male": "M"}
    birth = _get(resource, "birthDate", str, where)
    born = None if birth is None else _to_date(birth)
    times = [entry.time for entry in entries if entry.time is not None]
    age = None
    if born is not None and times:
        seconds = max(times) - datetime(born.year, born.month, born.day, tzinfo=UTC).timestamp()
        years = seconds / (365.25 * 86400)
        age = round(years, 1) if 0 <= years <= MAX_AGE else None
    return Patient(age=age, sex=sexes.get(gender))
