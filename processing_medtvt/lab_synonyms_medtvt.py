# SPDX-License-Identifier: Apache-2.0
"""
What hospitals call the 50 labs: names, LOINC codes and units beyond those of `LAB_DEFINITIONS`.

These are no part of a saved extractor: its config says which labs there are, in which order, unit and with which tables,
and an older folder reads what today's package can read.

LOINC codes: the same analyte in blood, serum or plasma. Sources: the mimic-code map of MIMIC's item ids to LOINC (as in
`LAB_DEFINITIONS`), the laboratory tables of Eureka! Clinical's data model (ACT network; cell counts, enzymes, and blood
beside serum), the records that Synthea writes (2339-0, 38483-4, 6299-2, 20565-8 and others), and LOINC's own names for the
codes in moles. LOINC is copyright Regenstrief Institute, https://loinc.org/license.
"""

from typing import NamedTuple


class LoincMeaning(NamedTuple):
    """
    Args:
        lab (`str`): Name in `LAB_DEFINITIONS`.
        unit (`str`, *optional*): The unit that a value without one has, where the code asks for another than the lab's own.
        remark (`str`, *optional*): In what the code differs from the lab, for a clinician.
    """

    lab: str
    unit: str | None = None
    remark: str | None = None


# A value by one of these names is urea, not the nitrogen in it: 1 mg of nitrogen is 2.14 mg of urea (60.06 / 28.01), while
# one mole of urea is reported as one mole under either name.
UREA = "urea"
UREA_UNITS = {"mg/dL": 2.14, "mmol/L": 0.357}
UREA_NAMES = ("Urea", "Serum Urea", "Blood Urea", "Urea, Serum", "Urea Serum", "Harnstoff", "Urée", "Uree", "Ureum")

_VENOUS = "of venous blood; reference ranges are for arterial blood"
_CAPILLARY = "of capillary blood; reference ranges are for arterial blood"
_WITHOUT_POTASSIUM = "calculated without potassium, about 4 mEq/L lower than the anion gap that the model knows"

# fmt: off
ALIASES: dict[str, tuple[str, ...]] = {
    "Base Excess": ("Base Excess, Arterial", "BE(B)", "BE (B)", "ABE", "Base Excess (BE)"),
    "Calculated Total CO2": ("TCO2 (calc)", "ctCO2"),
    "Lactate": ("Lactate, Blood", "Lactate (blood)", "Lactic Acid, Blood", "Laktat", "Lactat", "Lactato", "Blood Lactate"),
    "pCO2": ("pCO2, Arterial", "pCO2 (arterial)", "PCO2 Arterial", "CO2 partial pressure"),
    "pH": ("pH, Arterial", "Arterial pH", "pH (arterial)", "pH Blood", "pH, Blood"),
    "pO2": ("pO2, Arterial", "pO2 (arterial)", "PO2 Arterial", "O2 partial pressure"),
    "Alanine Aminotransferase (ALT)": (
        "Alanine Transaminase", "ALT/SGPT", "SGPT (ALT)", "SGPT/ALT", "ALT(SGPT)", "ALAT (GPT)", "GPT (ALAT)", "GPT (ALT)",
        "ALT (GPT)", "ALT (ALAT)", "Alanine Aminotransferase ALT", "TGP", "TGP (ALT)", "Serum ALT"),
    "Albumin": ("Serum Albumin", "Albumin, Serum", "Albumin Serum", "Albumine", "Albúmina", "Albumina"),
    "Alkaline Phosphatase": (
        "ALK", "AP", "Alkaline Phosphatase (ALP)", "Alk. Phos.", "Alk Phosphatase", "ALKP", "Alkalische Phosphatase"),
    "Anion Gap": ("AGAP", "Anion Gap, Calculated", "Anionenlücke", "Anionenluecke"),
    "Aspartate Aminotransferase (AST)": (
        "Aspartate Transaminase", "AST/SGOT", "SGOT (AST)", "SGOT/AST", "AST(SGOT)", "ASAT (GOT)", "GOT (ASAT)", "GOT (AST)",
        "AST (GOT)", "AST (ASAT)", "Aspartate Aminotransferase AST", "TGO", "TGO (AST)", "Serum AST"),
    "Bicarbonate": (
        "Bicarbonate (HCO3)", "HCO3 (bicarbonate)", "Bikarbonat", "Bicarbonat", "Bicarbonato", "Carbon Dioxide", "CO2",
        "Carbon Dioxide, Total", "CO2 (bicarbonate)", "HCO₃", "HCO₃⁻", "Std Bicarbonate", "Serum Bicarbonate"),
    "Bilirubin, Total": (
        "Bilirubin (total)", "Bilirubin total", "Bilirubin, Total, Serum", "T. Bilirubin", "T.Bili", "T Bil", "TBIL", "Bili total",
        "Bilirubin", "Bilirubin gesamt", "Gesamtbilirubin", "Bilirubine totale", "Bilirrubina total", "Total Bili"),
    "Calcium, Total": (
        "Calcium (total)", "Calcium, Serum", "Serum Calcium", "Total Ca", "Ca total", "Kalzium", "Calcio", "Ca++", "Ca2+"),
    "Chloride": ("Chlorid", "Chlorure", "Cloro", "Cloruro", "Serum Chloride", "Chloride, Serum"),
    "Creatine Kinase (CK)": (
        "CK total", "Total CK", "CK, Total", "CK (total)", "Creatine Phosphokinase", "Creatine Kinase, Total", "Kreatinkinase",
        "CPK total", "CK (CPK)", "Creatinkinase"),
    "Creatinine": (
        "Serum Creatinine", "Creatinine, Serum", "Creatinine Serum", "S-Creatinine", "SCr", "Kreatinin",
        "Créatinine", "Creatinina", "Creatinine (serum)", "Creatinine, Blood", "P-Creatinine"),
    "Glucose": (
        "Blood Glucose", "Glucose, Blood", "Glucose, Serum", "Serum Glucose", "Blood Sugar", "Glukose", "Glucosa", "BG",
        "Glucose, Random", "Random Glucose", "Glucose (random)", "Fasting Glucose", "Glucose, Fasting", "Glycémie", "Glycemie",
        "Blutzucker", "Plasma Glucose", "Glucose, Plasma", "bedside glucose"),
    "H (hemolysis index, inferred)": ("Haemolysis Index", "Hemolytic Index", "H-Index", "H Index"),
    "I (icterus index, inferred)": ("Icteric Index", "I-Index", "I Index"),
    "L (lipemia index, inferred)": ("Lipaemia Index", "Lipemic Index", "L-Index", "L Index"),
    "Magnesium": ("Serum Magnesium", "Magnesium, Serum", "Mg++", "Mg2+", "Magnésium", "Magnesio"),
    "Phosphate": (
        "Inorganic Phosphate", "Phosphorous", "Phosphate, Serum", "Phosphorus, Serum", "Serum Phosphate", "Phosphat", "Fosfato",
        "Phosphate (inorganic)", "Inorganic Phosphorus", "PHOS"),
    "Potassium": ("Serum Potassium", "Potassium, Serum", "Potassium Serum", "Kalium", "Potasio", "Kaliémie", "K⁺", "Potassium, Whole Blood"),
    "Sodium": ("Serum Sodium", "Sodium, Serum", "Sodium Serum", "Natrium", "Sodio", "Natrémie", "Na⁺", "Sodium, Whole Blood"),
    "Urea Nitrogen": ("Blood Urea Nitrogen (BUN)", "BUN (urea nitrogen)", "Urea Nitrogen (BUN)", "Serum Urea Nitrogen", "Urea-N"),
    "Absolute Lymphocyte Count": (
        "Lymphocyte Count", "Lymphocytes (absolute)", "Lymphocytes, Absolute", "Absolute Lymphocytes", "Lymphocytes #", "Lymph #",
        "LYM#", "Lymphs (Absolute)", "Abs Lymphs", "Lymphocytes Abs", "Lymphocytes (#)", "Lymphozyten absolut"),
    "Basophils": ("Basophils %", "% Basophils", "Basophil %", "BASO%", "BA%", "Basophils (%)", "Baso", "Basophile", "Basos %"),
    "Eosinophils": ("Eosinophils %", "% Eosinophils", "Eosinophil %", "EOS%", "EO%", "Eosinophils (%)", "Eosinophile", "Eos %"),
    "Hematocrit": ("Haematocrit (Hct)", "Hematocrit (Hct)", "PCV", "Packed Cell Volume", "Hämatokrit", "Haematokrit", "Hkt", "Ht", "Hématocrite", "Hematocrito"),
    "Hemoglobin": ("Hemoglobin (Hgb)", "Haemoglobin (Hb)", "Hemoglobin (Hb)", "Hämoglobin", "Haemoglobin, Blood", "HGB", "HB", "Hemoglobina", "Hémoglobine", "Hemoglobine"),
    "INR(PT)": ("INR (PT)", "PT (INR)", "PT/INR", "Prothrombin INR", "International Normalized Ratio", "INR Ratio", "P-INR"),
    "Lymphocytes": (
        "Lymphocytes %", "% Lymphocytes", "Lymphocyte %", "LYM%", "LY%", "Lymphocytes (%)", "Lymphozyten", "Lymph", "Lymphs %", "Lymph %"),
    "MCH": ("MCH (Hb/RBC)",),
    "MCHC": (),
    "MCV": ("Mean Cell Volume",),
    "Monocytes": ("Monocytes %", "% Monocytes", "Monocyte %", "MONO%", "MO%", "Monocytes (%)", "Monozyten", "Mono", "Monos %"),
    "Neutrophils": (
        "Neutrophils %", "% Neutrophils", "Neutrophil %", "NEUT%", "NE%", "Neutrophils (%)", "Neutrophile", "Neut", "PMN", "Neutro"),
    "Platelet Count": (
        "PLT Count", "Platelet", "Platelets Count", "Thrombocytes", "Thrombozyten", "Plaquettes", "Plaquetas", "Platelet Ct"),
    "PT": ("PT (sec)", "Prothrombin Time (PT)", "PT, Plasma", "PT Patient", "Protime"),
    "PTT": (
        "Activated Partial Thromboplastin Time", "aPTT (sec)", "APTT", "Activated PTT", "PTT (activated)", "Partial Thromboplastin Time (PTT)",
        "Activated Partial Thromboplastin Time (aPTT)", "PTT, Activated"),
    "RDW": ("Red Cell Distribution Width", "RDW (CV)", "RDW CV", "RDW %", "Red Blood Cell Distribution Width"),
    "Red Blood Cells": (
        "RBC Count", "Red Cell Count", "Red Blood Cell", "Red Blood Cells (RBC)", "Erythrozyten", "Red Blood Cell Count (RBC)", "Hématies"),
    "White Blood Cells": (
        "White Cell Count", "White Blood Cell", "WCC", "White Blood Cells (WBC)", "White Blood Cell Count (WBC)", "Leucocytes",
        "Leukozyten", "Leukocyte Count", "Leucocitos", "Total WBC Count", "Total Leukocyte Count", "TLC", "Leuko"),
    "Absolute Basophil Count": (
        "Basophil Count", "Basophils (absolute)", "Basophils, Absolute", "Absolute Basophils", "Basophils #", "BASO#", "Basophils (#)"),
    "Absolute Eosinophil Count": (
        "Eosinophil Count", "Eosinophils (absolute)", "Eosinophils, Absolute", "Absolute Eosinophils", "Eosinophils #", "EOS#", "Eosinophils (#)"),
    "Absolute Monocyte Count": (
        "Monocyte Count", "Monocytes (absolute)", "Monocytes, Absolute", "Absolute Monocytes", "Monocytes #", "MONO#", "Monocytes (#)"),
    "Absolute Neutrophil Count": (
        "Neutrophil Count", "Neutrophils (absolute)", "Neutrophils, Absolute", "Absolute Neutrophils", "Neutrophils #", "NEUT#",
        "Neutrophils (#)", "Neutrophile absolut", "Abs Neutrophils"),
    "Immature Granulocytes": ("Immature Granulocytes %", "Immature Granulocyte %", "IG %", "Immature Granulocytes (%)"),
    "RDW-SD": ("RDW SD", "RDW (SD)"),
}

_LOINC: dict[str, str] = {
    "Base Excess": "1925-7",
    "Calculated Total CO2": "2026-3 2027-1",
    "Lactate": "2524-7 2518-9 2519-7",
    "pCO2": "2019-8",
    "pH": "2744-1",
    "pO2": "2703-7",
    "Alanine Aminotransferase (ALT)": "1743-4 1744-2 76625-3",
    "Albumin": "2862-1 61151-7 61152-5",
    "Alkaline Phosphatase": "1783-0",
    "Anion Gap": "33037-3 41276-7",
    "Aspartate Aminotransferase (AST)": "30239-8 88112-8",
    "Bicarbonate": "1959-6 1960-4 1961-2 1962-0 14627-4 19229-4 2028-9 20565-8",
    "Bilirubin, Total": "42719-5",
    "Calcium, Total": "49765-1",
    "Chloride": "2069-3",
    "Creatinine": "38483-4",
    "Glucose": "2339-0 2340-8 2341-6 1558-6 41653-7 74774-1",
    "Magnesium": "21377-7",
    "Phosphate": "2774-8",
    "Potassium": "6298-4 77142-8",
    "Sodium": "2947-0 77139-4",
    "Urea Nitrogen": "6299-2",
    "Absolute Lymphocyte Count": "26474-7 732-8",
    "Basophils": "30180-4 707-0",
    "Eosinophils": "26450-7 714-6",
    "Hematocrit": "20570-8 4545-0 48703-3",
    "Hemoglobin": "20509-6 30313-1 30350-3",
    "INR(PT)": "34714-6 38875-1 46418-0",
    "Lymphocytes": "26478-8 737-7",
    "MCH": "28539-5",
    "MCHC": "28540-3",
    "MCV": "30428-7",
    "Monocytes": "26485-3 744-3",
    "Neutrophils": "26511-6 23761-0",
    "Platelet Count": "26515-7 778-1 49497-1",
    "PT": "5964-2",
    "PTT": "3173-2",
    "RDW": "30385-9",
    "Red Blood Cells": "26453-1 790-6",
    "White Blood Cells": "26464-8 804-5 49498-9",
    "Absolute Basophil Count": "26444-0 705-4",
    "Absolute Eosinophil Count": "26449-9 712-0",
    "Absolute Monocyte Count": "26484-6 743-5",
    "Absolute Neutrophil Count": "26499-4 753-4",
    "Immature Granulocytes": "71695-1",
    "RDW-SD": "30384-2",
}
LOINC_CODES: dict[str, LoincMeaning] = {
    **{code: LoincMeaning(lab) for lab, codes in _LOINC.items() for code in codes.split()},
    "14118-4": LoincMeaning("Lactate", "mg/dL"),
    "14631-6": LoincMeaning("Bilirubin, Total", "umol/L"),
    "2000-8": LoincMeaning("Calcium, Total", "mmol/L"),
    "14682-9": LoincMeaning("Creatinine", "umol/L"),
    "59826-8": LoincMeaning("Creatinine", "umol/L"),
    "14749-6": LoincMeaning("Glucose", "mmol/L"),
    "15074-8": LoincMeaning("Glucose", "mmol/L"),
    "14771-0": LoincMeaning("Glucose", "mmol/L"),
    "2601-3": LoincMeaning("Magnesium", "mmol/L"),
    "14879-1": LoincMeaning("Phosphate", "mmol/L"),
    "14937-7": LoincMeaning("Urea Nitrogen", "mmol/L"),
    "59570-2": LoincMeaning("Urea Nitrogen", "mmol/L"),
    "22664-7": LoincMeaning(UREA, "mmol/L"),
    "3091-6": LoincMeaning(UREA, "mg/dL"),
    "59260-0": LoincMeaning("Hemoglobin", "mmol/L"),
    "10466-1": LoincMeaning("Anion Gap", None, _WITHOUT_POTASSIUM),
    "1927-3": LoincMeaning("Base Excess", None, _VENOUS),
    "1926-5": LoincMeaning("Base Excess", None, _CAPILLARY),
    "2021-4": LoincMeaning("pCO2", None, _VENOUS),
    "2020-6": LoincMeaning("pCO2", None, _CAPILLARY),
    "2746-6": LoincMeaning("pH", None, _VENOUS),
    "2745-8": LoincMeaning("pH", None, _CAPILLARY),
    "2705-2": LoincMeaning("pO2", None, _VENOUS),
    "2704-5": LoincMeaning("pO2", None, _CAPILLARY),
}

# Units beyond `LabDefinition.units` -> how many of them are one of the lab's own unit. Calcium and magnesium are divalent: two
# mEq are one mmol. Hemoglobin in moles is that of the monomer, 1 g/dL = 0.6206 mmol/L.
UNITS: dict[str, dict[str, float]] = {
    "Calcium, Total": {"mEq/L": 0.499},
    "Magnesium": {"mEq/L": 0.8228},
    "MCH": {"fmol": 0.06206},
    "MCHC": {"mmol/L": 0.6206, "fraction": 0.01},
    "Lactate": {"mg/dL": 1 / 0.111},
    "Hematocrit": {"fraction": 0.01},
}

# The same cells as a share and as a count: the unit says which of the two a value is.
COUNTERPARTS = {
    "Basophils": "Absolute Basophil Count",
    "Eosinophils": "Absolute Eosinophil Count",
    "Lymphocytes": "Absolute Lymphocyte Count",
    "Monocytes": "Absolute Monocyte Count",
    "Neutrophils": "Absolute Neutrophil Count",
    "RDW": "RDW-SD",
}
COUNTERPARTS.update({count: share for share, count in tuple(COUNTERPARTS.items())})

# Frequent labs that the model does not know, so that a note may name them and no other lab is suggested for them.
OTHER_LABS = (
    "CRP", "C-Reactive Protein", "hs-CRP", "Troponin", "Troponin I", "Troponin T", "hs-Troponin", "hsTnT", "hsTnI", "TnT", "TnI", "BNP",
    "NT-proBNP", "NTproBNP", "Pro-BNP", "HbA1c", "Hemoglobin A1c", "A1c", "eGFR", "GFR", "Estimated GFR", "Procalcitonin", "PCT", "LDH",
    "Lactate Dehydrogenase", "D-Dimer", "D-Dimers", "Fibrinogen", "Ferritin", "Iron", "Transferrin", "TIBC", "TSH", "FT3", "FT4", "T3", "T4",
    "Free T4", "Free T3", "Cholesterol", "Total Cholesterol", "HDL", "LDL", "HDL Cholesterol", "LDL Cholesterol", "Triglycerides", "Uric Acid",
    "Urate", "GGT", "Gamma-GT", "Amylase", "Lipase", "Ammonia", "CK-MB", "CKMB", "Direct Bilirubin", "Bilirubin, Direct", "Indirect Bilirubin",
    "Conjugated Bilirubin", "Total Protein", "Globulin", "ESR", "Ionized Calcium", "Free Calcium", "Oxygen Saturation", "SpO2", "SaO2", "FiO2",
    "MPV", "Reticulocytes", "Bands", "Osmolality", "Cortisol", "Vitamin D", "Vitamin B12", "Folate", "PSA", "Myoglobin", "Interleukin-6", "IL-6",
    "Quick", "Urine Protein", "Specific Gravity", "Creatinine Clearance", "Haptoglobin", "Antithrombin", "Beta-Hydroxybutyrate", "Ketones",
    "Carboxyhemoglobin", "Methemoglobin", "Nucleated Red Cells", "Urea/Creatinine Ratio", "BUN/Creatinine Ratio", "A/G Ratio",
)
# fmt: on
