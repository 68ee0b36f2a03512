# SPDX-License-Identifier: Apache-2.0
"""`medtvt demo`: an example patient, drawn by the package, through the pipeline."""

from modeling_medtvt import DEFAULT_CHECKPOINT

from .diagnose import RESEARCH_USE, format_result, load_pipeline
from .synthetic.example_patient import write_example_patient


def add_arguments(parser):
    """Arguments of `medtvt demo`."""
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT, help="checkpoint folder (default: the package's own)")
    parser.add_argument("--ecg", help="your own WFDB record instead of the example patient")
    parser.add_argument("--cxr", help="your own chest X-ray: PNG, JPEG or DICOM")
    parser.add_argument("--lab", help="your own laboratory panel: CSV with the columns name,value[,unit]")
    parser.add_argument("--out", default="demo", help="folder for the example patient's files (default: demo)")


def run(args):
    """Entry point of `medtvt demo`."""
    print(f"MedTVT-R1 demo. {RESEARCH_USE}\n")
    files = {"ecg": args.ecg, "cxr": args.cxr, "lab": args.lab}
    diseases = None
    if not any(files.values()):
        patient = write_example_patient(args.out)
        diseases = patient.pop("diseases")
        files = patient
        print(f"An example patient, drawn for this demo, not a real one, is in {args.out}/:")
    for modality, path in files.items():
        if path is not None:
            print(f"  {modality}  {path}")
    print(f"  model {args.model}\n")
    print(format_result(load_pipeline(args.model)(**files)))
    if diseases is not None:
        print(f"The example patient was drawn with: {'; '.join(diseases)}.")
