# SPDX-License-Identifier: Apache-2.0
"""`medtvt labs`: the labs that the model knows, with their units, names, codes and reference ranges."""

import argparse
import json
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from processing_medtvt.lab_definitions_medtvt import LabDefinition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `medtvt labs`."""
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list, one object a lab, in the model's order"
    )


def run(args: argparse.Namespace) -> None:
    """Entry point of `medtvt labs`."""
    from processing_medtvt import LAB_DEFINITIONS

    labs = [describe_lab(lab) for lab in LAB_DEFINITIONS]
    print(json.dumps(labs, indent=2, ensure_ascii=False) if args.json else "\n\n".join(map(format_lab, labs)))


def describe_lab(lab: "LabDefinition") -> dict[str, Any]:
    """
    One lab as a dict: `name`, `unit` (the lab's own), `units` (accepted, each with how many of it are one of the own unit),
    `aliases`, `loinc`, `itemids` (MIMIC's), and `reference` with `unisex`, `F` and `M`, each [low, high] or None.
    """
    from processing_medtvt.lab_definitions_medtvt import reference_range
    from processing_medtvt.lab_names_medtvt import list_names
    from processing_medtvt.patient_medtvt import Patient

    names = list_names(lab)
    ranges = {"unisex": reference_range(lab)}
    ranges |= {sex: reference_range(lab, Patient(age=None, sex=sex)) for sex in ("F", "M")}
    return {
        "name": lab.name,
        "unit": lab.unit,
        "units": {unit: factor for unit, factor in names.units.items() if unit != lab.unit},
        "aliases": names.aliases,
        "loinc": names.loinc,
        "itemids": list(lab.itemids),
        "reference": {group: None if limits[0] is None else list(limits) for group, limits in ranges.items()},
    }


def format_lab(lab: dict[str, Any]) -> str:
    """One lab in a few lines of text."""
    reference = lab["reference"]
    if reference["unisex"] is None:
        ranges = "none: it measures the specimen, not the patient"
    elif reference["F"] == reference["M"]:
        ranges = _format_range(reference["unisex"], lab["unit"])
    else:
        ranges = ", ".join(
            f"{group} {_format_range(reference[key], lab['unit'])}" for group, key in (("women", "F"), ("men", "M"))
        )
    rows = {
        "unit": ", also ".join(filter(None, (lab["unit"], ", ".join(lab["units"])))),
        "reference": ranges,
        "names": "; ".join(lab["aliases"]),
        "LOINC": ", ".join(lab["loinc"]),
        "MIMIC": ", ".join(map(str, lab["itemids"])),
    }
    return "\n".join([lab["name"], *(f"  {title:<10} {text}" for title, text in rows.items() if text)])


def _format_range(limits: list[float], unit: str) -> str:
    return f"{limits[0]:g} to {limits[1]:g} {unit}"
