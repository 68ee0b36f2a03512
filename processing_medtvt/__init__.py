# SPDX-License-Identifier: Apache-2.0
from .feature_extraction_medtvt_ecg import MedTVTEcgFeatureExtractor
from .feature_extraction_medtvt_lab import MedTVTLabFeatureExtractor
from .image_processing_medtvt import MedTVTImageProcessor
from .lab_definitions_medtvt import LAB_DEFINITIONS, reference_range
from .patient_medtvt import Patient, check_patient, merge_patients
from .processing_medtvt import PLAIN_CHAT_TEMPLATE, MedTVTProcessor
from .read_cxr_medtvt import load_cxr
from .report_figure_medtvt import render_figure
from .report_inputs_medtvt import read_inputs
from .report_medtvt import render_report
from .version_medtvt import find_version


__version__ = find_version()

__all__ = [
    "LAB_DEFINITIONS",
    "PLAIN_CHAT_TEMPLATE",
    "Patient",
    "MedTVTEcgFeatureExtractor",
    "MedTVTImageProcessor",
    "MedTVTLabFeatureExtractor",
    "MedTVTProcessor",
    "check_patient",
    "load_cxr",
    "merge_patients",
    "read_inputs",
    "reference_range",
    "render_figure",
    "render_report",
]
