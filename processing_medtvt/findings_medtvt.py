# SPDX-License-Identifier: Apache-2.0
"""
The words for what an ECG, a film or a panel shows: a name for each finding, and the wordings in which texts state it.

Names begin with the modality, as in `"ecg: prolonged QTc"`. Labs follow a grammar instead of a list: a name of the lab
with a direction (`"lab: high Potassium"`), a limit (`"lab: Glucose above 200"`) or a value (`"lab: Sodium 128"`).
"""

import re


# Wordings by finding, as regular expressions that are read without regard to case. A wording that means two things is
# left out. British and American spellings are read alike.
ECG_WORDINGS = {
    "ecg: normal ECG": r"normal (?:ecg|ekg|electrocardiogram)|(?:ecg|ekg|electrocardiogram) (?:is|was) (?:normal|unremarkable)",
    "ecg: sinus rhythm": (
        r"(?:normal |regular )?sinus (?:rhythm|beats)(?:(?:, | at a | with a )normal (?:heart |ventricular )?rate)?"
    ),
    "ecg: sinus tachycardia": r"sinus tachycardia|fast sinus rate(?: above 100)?",
    "ecg: sinus bradycardia": r"sinus bradycardia|slow sinus rate(?: below 60)?",
    "ecg: tachycardia": r"tachycardi[ac]|(?:heart|ventricular) rate above 100",
    "ecg: bradycardia": r"bradycardi[ac]|(?:heart|ventricular) rate below 60",
    "ecg: normal rate": r"normal (?:heart|ventricular) rate|(?:heart|ventricular) rate (?:is|was) normal",
    "ecg: fibrillation": (
        r"irregularly irregular (?:beats|rhythm|rr intervals)(?: (?:without|with no) (?:discernible )?p waves)?"
        r"|no p waves, rr intervals wholly irregular|atrial fibrillation|a-?fib\b"
    ),
    "ecg: flutter": r"(?:sawtooth )?flutter waves(?:,? (?:at 300, conducted )?2:1)?|atrial flutter|sawtooth waves",
    "ecg: rapid response": r"rapid ventricular (?:response|rate)|ventricles above 100|\brvr\b",
    "ecg: paced": r"ventricular pacing|(?:ventricular )?paced (?:rhythm|beats|complexes)|pacing spikes",
    "ecg: premature atrial beats": (
        r"(?:premature|early) (?:atrial|supraventricular) (?:beats|complexes|contractions)|atrial (?:ectopy|extrasystoles)"
        r"|\bpacs?\b"
    ),
    "ecg: premature ventricular beats": (
        r"premature ventricular (?:beats|complexes|contractions)|wide early beats|ventricular (?:ectopy|extrasystoles)"
        r"|\bpvcs?\b"
    ),
    "ecg: pause": r"(?:sinus )?pauses?\b",
    "ecg: left atrial enlargement": (
        r"broad p waves(?: of the left atrium)?|p terminal force in v1|left atrial (?:enlargement|abnormality)|p mitrale"
    ),
    "ecg: prolonged PR": (
        r"(?:prolonged|long) pr(?: interval)?|pr(?: interval)? (?:is |was )?(?:prolonged|above 200(?: ms)?)"
        r"|(?:1st|first)[- ]degree (?:a-?v|atrioventricular) (?:block|delay)"
    ),
    "ecg: normal PR": r"normal pr(?: interval)?|pr(?: interval)? (?:is |was )?(?:normal|within normal limits)",
    "ecg: left bundle branch block": r"(?:complete )?left bundle[- ]branch block|\blbbb\b",
    "ecg: right bundle branch block": r"(?:complete )?right bundle[- ]branch block|\brbbb\b",
    "ecg: wide QRS": r"(?:wide|broad|prolonged) qrs(?: complex(?:es)?)?|qrs (?:is |was )?(?:wide|broad|prolonged|above 120(?: ms)?)",
    "ecg: normal QRS": r"(?:normal|narrow) qrs(?: complex(?:es)?| duration)?|qrs (?:is |was )?(?:normal|narrow)",
    "ecg: left axis": r"left(?:ward)? axis(?: deviation)?|axis turned left",
    "ecg: right axis": r"right(?:ward)? axis(?: deviation)?|axis turned right",
    "ecg: normal axis": r"normal (?:qrs )?axis|(?:qrs )?axis (?:is |was )?normal",
    "ecg: prolonged QTc": (
        r"(?:prolonged|long) qtc?(?: interval)?|qtc?(?: interval)? (?:is |was )?(?:prolonged|above (?:450|460|470|480|500)(?: ms)?)"
        r"|qtc? prolongation"
    ),
    "ecg: normal QTc": r"normal qtc?(?: interval)?|qtc?(?: interval)? (?:is |was )?(?:normal|within normal limits)",
    "ecg: LVH voltage": (
        r"lvh(?: voltages?)?(?: criteria)?|left ventricular hypertrophy(?: by voltage)?|voltages of a thick left ventricle"
    ),
    "ecg: strain": r"(?:lv )?strain pattern|lateral repolari[sz]ation strain",
    "ecg: low voltage": r"low (?:qrs )?voltages?|small qrs complexes",
    "ecg: poor R progression": r"poor r[- ]wave progression|r waves slow to grow up to v3",
    "ecg: inferior Q waves": r"q waves in ii, iii,? (?:and )?avf|inferior q waves|old inferior (?:myocardial )?infarct(?:ion)?",
    "ecg: anteroseptal Q waves": r"q waves in v1[- ](?:to )?v4|anteroseptal q waves|old anteroseptal (?:myocardial )?infarct(?:ion)?",
    "ecg: anterior Q waves": r"q waves in v3[- ](?:to )?v4|anterior q waves|old anterior (?:myocardial )?infarct(?:ion)?",
    "ecg: septal Q waves": r"q waves in v1[- ](?:to )?v2|septal q waves|old septal (?:myocardial )?infarct(?:ion)?",
    "ecg: ST elevation": (
        r"(?:acute |inferior |anterior |lateral )*st(?:[- ]segment)? elevations?(?: with reciprocal depression)?|\bstemi\b"
    ),
    "ecg: ST depression": r"(?:horizontal |isch[a]?emic |downsloping )*st(?:[- ]segment)? depressions?",
    "ecg: lateral T inversion": r"lateral t(?:[- ]wave)? inversions?|inverted t(?: waves?)? in v5-v6",
    "ecg: nonspecific ST-T": (
        r"nonspecific st-t(?:[- ]wave)? (?:changes|abnormalit(?:y|ies))|slight st-t changes, nonspecific"
    ),
    "ecg: normal ST": r"no (?:acute )?st-t (?:wave )?changes|normal st(?:[- ]segments?)?(?: and t waves)?",
    "ecg: tented T": r"(?:tented|peaked) t(?: waves)?|tall narrow t waves",
    "ecg: U waves": r"flat t with u waves|prominent u waves|u waves",
}
_ZONE = r"(?:opacit(?:y|ies)|consolidations?|infiltrates?|shadowing)"
CXR_WORDINGS = {
    "cxr: normal": r"(?:normal|unremarkable) (?:chest (?:x-?ray|radiograph|film)|cxr)|no acute cardiopulmonary (?:process|abnormality|disease)",
    "cxr: normal heart size": (
        r"heart (?:is |was )?not enlarged|normal (?:heart|cardiac) (?:size|silhouette)"
        r"|(?:heart|cardiac silhouette|heart size) (?:is |was )?normal(?: in size)?"
    ),
    "cxr: enlarged heart": (
        r"enlarged (?:heart|cardiac silhouette)|cardiomegaly|cardiothoracic ratio above the limit"
        r"|(?:heart|cardiac silhouette) is (?:mildly |moderately |markedly |severely )?enlarged|enlargement of the cardiac silhouette"
    ),
    "cxr: wide aorta": r"wide calcified aorta|unfolded aorta|(?:widened|tortuous) aorta",
    "cxr: edema": (
        r"pulmonary o?edema|interstitial o?edema|kerley (?:b )?lines(?: and upper vessel distension)?"
        r"|(?:pulmonary )?vascular congestion"
    ),
    "cxr: clear lungs": r"clear lungs|lungs are (?:well[- ]expanded and )?clear|no opacity in the lungs",
    **{
        f"cxr: {side} {zone} zone opacity": (
            rf"{side} {words}(?: zone| lung| lobe)? {_ZONE}|{_ZONE} (?:of|in|at) the {side} {words}(?: zone| lung| lobe)?"
        )
        for side in ("right", "left")
        for zone, words in (
            ("lower", "(?:lower|basal|base)"),
            ("mid", "(?:mid|middle)"),
            ("upper", "(?:upper|apical)"),
        )
    },
    "cxr: opacity": rf"(?:focal |patchy |lung |airspace |multifocal )*(?:{_ZONE})",
    "cxr: interstitial opacity": (
        r"interstitial opacities(?: on both sides)?|reticular shadowing(?: of both lungs)?|interstitial (?:markings|changes)"
    ),
    "cxr: atelectasis": r"(?:basal |bibasilar |linear )*atelectas[ie]s|linear bands at the base",
    "cxr: hyperinflation": r"hyperinflat(?:ed lungs|ion)|low flat diaphragms|flattened diaphragms",
    "cxr: right effusion": r"right(?:-sided)? pleural effusion|blunt(?:ed|ing of the)? right costophrenic angle",
    "cxr: left effusion": r"left(?:-sided)? pleural effusion|blunt(?:ed|ing of the)? left costophrenic angle",
    "cxr: bilateral effusions": r"bilateral (?:pleural )?effusions|both costophrenic angles blunt",
    "cxr: effusion": r"(?:pleural )?effusions?",
    "cxr: pneumothorax": r"pneumothorax|pneumothoraces",
    "cxr: tube": r"endotracheal tube|tube in the trachea",
    "cxr: line": r"central venous (?:line|catheter)|venous catheter in the superior vena cava|picc line",
    "cxr: pacemaker": r"pacemaker(?: below the clavicle)?|implanted pacemaker",
    "cxr: sternotomy wires": r"sternotomy wires|wires of a prior bypass operation",
}
WORDINGS = {**ECG_WORDINGS, **CXR_WORDINGS}

# One word for a lab and what it says of it: a direction, or a limit in the lab's unit
LAB_WORDS = {
    "hyperkal": ("Potassium", "high"),
    "hypokal": ("Potassium", "low"),
    "hypernatr": ("Sodium", "high"),
    "hyponatr": ("Sodium", "low"),
    "hyperchlor": ("Chloride", "high"),
    "hypochlor": ("Chloride", "low"),
    "hypercalc": ("Calcium, Total", "high"),
    "hypocalc": ("Calcium, Total", "low"),
    "hyperphosphat": ("Phosphate", "high"),
    "hypophosphat": ("Phosphate", "low"),
    "hypermagnes": ("Magnesium", "high"),
    "hypomagnes": ("Magnesium", "low"),
    "hyperglyc": ("Glucose", "high"),
    "hypoglyc": ("Glucose", "low"),
    "hypoalbumin": ("Albumin", "low"),
    "hyperbilirubin": ("Bilirubin, Total", "high"),
    "hyperlactat": ("Lactate", "high"),
    "azot": ("Urea Nitrogen", "high"),
    "ur": ("Urea Nitrogen", "high"),
    "acid": ("pH", "low"),
    "alkal": ("pH", "high"),
    "hypox": ("pO2", "low"),
    "an": ("Hemoglobin", "low"),
    "polycyth": ("Hemoglobin", "high"),
}
LAB_OTHER_WORDS: dict[str, tuple[str, str] | tuple[str, str, float] | tuple[str, str, float, float]] = {
    r"frank hyperglyca?emia": ("Glucose", "above", 200),
    r"moderate hyperglyca?emia": ("Glucose", "between", 140, 200),
    r"leu[kc]ocytosis": ("White Blood Cells", "high"),
    r"leu[kc]o(?:cyto)?penia": ("White Blood Cells", "low"),
    r"neutrophilia|(?:marked )?neutrophil shift|left shift": ("Neutrophils", "high"),
    r"neutropenia": ("Absolute Neutrophil Count", "low"),
    r"lymphocytosis": ("Absolute Lymphocyte Count", "high"),
    r"lympho(?:cyto)?penia": ("Absolute Lymphocyte Count", "low"),
    r"eosinophilia": ("Absolute Eosinophil Count", "high"),
    r"thrombocytopenia": ("Platelet Count", "low"),
    r"thrombocytosis": ("Platelet Count", "high"),
    r"hypercapnia|hypercarbia": ("pCO2", "high"),
    r"hypocapnia|hypocarbia": ("pCO2", "low"),
    r"macrocytosis": ("MCV", "high"),
    r"microcytosis": ("MCV", "low"),
    r"wide(?:ned)? (?:anion )?gap": ("Anion Gap", "high"),
    r"inr as under anticoagulation": ("INR(PT)", "at least", 1.8),
    r"coagulopathy": ("INR(PT)", "high"),
}
# Names in sentences that are no name or alias of a lab
LAB_NICKNAMES = {
    "urea nitrogen": ("Urea Nitrogen",),
    "urea": ("Urea Nitrogen",),
    "white cells": ("White Blood Cells",),
    "white cell count": ("White Blood Cells",),
    "white count": ("White Blood Cells",),
    "transaminases": ("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)"),
    "liver enzymes": ("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)"),
    "alt or ast": ("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)"),
    "alt and ast": ("Alanine Aminotransferase (ALT)", "Aspartate Aminotransferase (AST)"),
    "bilirubin": ("Bilirubin, Total",),
    "inr": ("INR(PT)",),
}


def compile_wordings(wordings: dict[str, str]) -> re.Pattern[str]:
    """One pattern for all wordings, each in a group `f0`, `f1`, ... in their order."""
    groups = (rf"(?P<f{i}>{wording})" for i, wording in enumerate(wordings.values()))
    return re.compile(rf"(?<![\w-])(?:{'|'.join(groups)})(?![\w])", re.IGNORECASE)
