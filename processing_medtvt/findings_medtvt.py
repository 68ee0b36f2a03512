# SPDX-License-Identifier: Apache-2.0
"""
The words for what an ECG, a film or a panel shows: a name for each finding, the wordings in which texts state it, and
those that our own texts use.

Names begin with the modality, as in `"ecg: prolonged QTc"`. Labs follow a grammar instead of a list: a name of the lab
with a direction (`"lab: high Potassium"`), a limit (`"lab: Glucose above 200"`) or a value (`"lab: Sodium 128"`).
"""

import re


# Wordings by finding, as regular expressions that are read without regard to case. A wording that means two things is
# left out. British and American spellings are read alike.
ECG_WORDINGS = {
    "ecg: normal ECG": r"(?:normal|unremarkable) (?:ecg|ekg|electrocardiogram)|(?:ecg|ekg|electrocardiogram) (?:is|was) (?:normal|unremarkable)",
    "ecg: sinus rhythm": (
        r"(?:normal |regular )?sinus (?:rhythm|beats)(?:(?:, | at a | with a )normal (?:heart |ventricular )?rate)?"
    ),
    "ecg: sinus tachycardia": r"sinus tachycardia|(?:fast )?sinus rate above 100|fast sinus (?:rhythm|rate)",
    "ecg: sinus bradycardia": r"sinus bradycardia|(?:slow )?sinus rate below 60|slow sinus (?:rhythm|rate)",
    "ecg: tachycardia": r"tachycardi[ac]|(?:heart|ventricular) rate above 100",
    "ecg: bradycardia": r"bradycardi[ac]|(?:heart|ventricular) rate below 60",
    "ecg: normal rate": r"normal (?:heart|ventricular) rate|(?:heart|ventricular) rate (?:is|was) normal",
    "ecg: fibrillation": (
        r"irregularly irregular (?:beats|rhythm|rr intervals)(?: (?:without|with no) (?:discernible )?p waves)?"
        r"|no p waves, rr intervals wholly irregular|atrial fibrillation|a-?fib\b"
    ),
    "ecg: flutter": r"(?:sawtooth )?flutter waves(?:,? (?:at 300, conducted )?2:1)?|atrial flutter|sawtooth waves",
    "ecg: rapid response": (
        r"(?:rapid|fast) ventricular (?:response|rate)|rapid conduction to the ventricles|ventricles above 100|\brvr\b"
    ),
    "ecg: paced": r"ventricular pacing|(?:ventricular )?paced (?:rhythm|beats|complexes)|pacing spikes",
    "ecg: premature atrial beats": (
        r"(?:premature|early) (?:atrial|supraventricular) (?:beats|complexes|contractions)|atrial (?:ectopy|extrasystoles)"
        r"|\bpacs?\b"
    ),
    "ecg: premature ventricular beats": (
        r"premature ventricular (?:beats|complexes|contractions)|wide (?:premature|early) beats|ventricular (?:ectopy|extrasystoles)"
        r"|\bpvcs?\b"
    ),
    "ecg: pause": r"(?:sinus )?pauses?\b",
    "ecg: left atrial enlargement": (
        r"broad p waves(?: of the left atrium)?|(?:large )?p terminal force in v1|left atrial (?:enlargement|abnormality)|p mitrale"
    ),
    "ecg: prolonged PR": (
        r"(?:prolonged|long) pr(?: interval)?|pr(?: interval)? (?:is |was )?(?:prolonged|above 200(?: ms)?)"
        r"|(?:1st|first)[- ]degree (?:a-?v|atrioventricular) (?:block|delay)"
    ),
    "ecg: normal PR": r"normal pr(?: interval)?|pr(?: interval)? (?:is |was )?(?:normal|within normal limits)",
    "ecg: left bundle branch block": r"(?:complete )?left bundle[- ]branch block|\blbbb\b",
    "ecg: right bundle branch block": r"(?:complete )?right bundle[- ]branch block|\brbbb\b",
    "ecg: wide QRS": r"(?:wide|broad|prolonged) qrs(?: complex(?:es)?)?|qrs (?:is |was )?(?:wide|broad|prolonged|above 120(?: ms)?)",
    "ecg: normal QRS": r"(?:normal|narrow) qrs(?! axis)(?: complex(?:es)?| duration)?|qrs (?:is |was )?(?:normal|narrow)",
    "ecg: left axis": r"left(?:ward)? (?:qrs )?axis(?: deviation)?|axis turned left",
    "ecg: right axis": r"right(?:ward)? (?:qrs )?axis(?: deviation)?|axis turned right",
    "ecg: normal axis": r"normal (?:qrs )?axis|(?:qrs )?axis (?:is |was )?normal",
    "ecg: prolonged QTc": (
        r"(?:prolonged|long) qtc?(?: interval)?|qtc?(?: interval)? (?:is |was )?(?:prolonged|above (?:450|460|470|480|500)(?: ms)?)"
        r"|qtc? prolongation"
    ),
    "ecg: normal QTc": r"normal qtc?(?: interval)?|qtc?(?: interval)? (?:is |was )?(?:normal|within normal limits)",
    "ecg: LVH voltage": (
        r"voltages? (?:criteria )?(?:for|of) (?:lvh|left ventricular hypertrophy)|lvh(?: by voltage| voltages?)?(?: criteria)?|left ventricular hypertrophy(?: by voltage)?|voltages of a thick left ventricle"
    ),
    "ecg: strain": r"(?:lv )?strain pattern|lateral repolari[sz]ation strain",
    "ecg: low voltage": r"low (?:qrs )?voltages?|small qrs complexes",
    "ecg: poor R progression": r"(?:poor|delayed) r[- ]wave progression|small r waves up to v3|r waves slow to grow up to v3",
    "ecg: inferior Q waves": r"(?:pathologic(?:al)? )?q waves in ii, iii,? (?:and )?avf|(?:pathologic(?:al)? )?inferior q waves|old inferior (?:myocardial )?infarct(?:ion)?",
    "ecg: anteroseptal Q waves": r"(?:pathologic(?:al)? )?q waves in v1[- ](?:to )?v4|(?:pathologic(?:al)? )?anteroseptal q waves|old anteroseptal (?:myocardial )?infarct(?:ion)?",
    "ecg: anterior Q waves": r"(?:pathologic(?:al)? )?q waves in v3[- ](?:to )?v4|(?:pathologic(?:al)? )?anterior q waves|old anterior (?:myocardial )?infarct(?:ion)?",
    "ecg: septal Q waves": r"(?:pathologic(?:al)? )?q waves in v1[- ](?:to )?v2|(?:pathologic(?:al)? )?septal q waves|old septal (?:myocardial )?infarct(?:ion)?",
    "ecg: ST elevation": (
        r"(?:acute |inferior |anterior |lateral )*st(?:[- ]segment)? elevations?(?: with reciprocal depression)?|\bstemi\b"
    ),
    "ecg: ST depression": r"(?:horizontal |isch[a]?emic |downsloping )*st(?:[- ]segment)? depressions?",
    "ecg: lateral T inversion": r"lateral t(?:[- ]wave)? inversions?|inverted t(?: waves?)? in v5-v6|t(?:[- ]wave)? inversions? in v5-v6",
    "ecg: nonspecific ST-T": (
        r"(?:minor |slight )?nonspecific st-t(?:[- ]wave)? (?:changes|abnormalit(?:y|ies))|slight st-t changes, nonspecific"
    ),
    "ecg: normal ST": r"no (?:acute )?st-t (?:wave )?changes|normal st(?:[- ]segments?)?(?: and t waves)?",
    "ecg: tented T": r"(?:tall )?(?:tented|peaked) t(?: waves)?|tall narrow t waves",
    "ecg: U waves": r"flat t(?: waves)? with u waves|u waves after flat t(?: waves)?|prominent u waves|u waves",
}
_KIND = r"(?:focal |patchy |lung |airspace |multifocal )*"
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
    "cxr: wide aorta": r"wide calcified aorta|unfolded (?:calcified )?aorta|(?:widened|tortuous) aorta",
    "cxr: edema": (
        r"pulmonary o?edema|interstitial o?edema|kerley (?:b )?lines(?: and (?:upper vessel distension|distended upper vessels))?"
        r"|(?:pulmonary )?vascular congestion"
    ),
    "cxr: clear lungs": r"clear lungs|lungs are (?:well[- ]expanded and )?clear|no opacity in the lungs|no lung opacity",
    **{
        f"cxr: {side} {zone} zone opacity": (
            rf"{side} {words}(?: zone| lung| lobe)? {_ZONE}|{_KIND}{_ZONE} (?:of|in|at) the {side} {words}(?: zone| lung| lobe)?"
        )
        for side in ("right", "left")
        for zone, words in (
            ("lower", "(?:lower|basal|base)"),
            ("mid", "(?:mid|middle)"),
            ("upper", "(?:upper|apical)"),
        )
    },
    "cxr: opacity": rf"{_KIND}{_ZONE}",
    "cxr: interstitial opacity": (
        r"(?:bilateral )?interstitial opacities(?: on both sides)?|interstitial (?:markings|changes)(?: in both lungs)?"
        r"|reticular (?:shadowing|opacities)(?: (?:of|in) both lungs)?"
    ),
    "cxr: atelectasis": r"(?:basal |bibasilar |linear |plate-?like )*atelectas[ie]s|linear bands at the base",
    "cxr: hyperinflation": r"hyperinflat(?:ed lungs|ion)|low flat diaphragms|flattened diaphragms",
    "cxr: right effusion": r"right(?:-sided)? pleural effusion|blunt(?:ed|ing of the)? right costophrenic angle",
    "cxr: left effusion": r"left(?:-sided)? pleural effusion|blunt(?:ed|ing of the)? left costophrenic angle",
    "cxr: bilateral effusions": (
        r"bilateral (?:pleural )?effusions|(?:pleural )?effusions on both sides|both costophrenic angles blunt"
        r"|blunted costophrenic angles on both sides"
    ),
    "cxr: effusion": r"(?:pleural )?effusions?",
    "cxr: pneumothorax": r"(?:a )?pneumothorax|pneumothoraces",
    "cxr: tube": r"endotracheal tube(?: in place)?|tube in the trachea",
    "cxr: line": r"central venous (?:line|catheter)|venous catheter in the superior vena cava|picc line",
    "cxr: pacemaker": r"(?:implanted )?pacemaker(?: below the (?:left )?clavicle)?",
    "cxr: sternotomy wires": r"(?:median )?sternotomy wires|wires of a sternotomy|wires of a prior bypass operation",
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


def _zone_phrases() -> dict[str, tuple[str, str, str]]:
    zones = [f"{side} {zone} zone" for side in ("right", "left") for zone in ("lower", "mid", "upper")]
    return {
        f"cxr: {zone} opacity": (f"{zone} opacity", f"opacity in the {zone}", f"airspace opacity in the {zone}")
        for zone in zones
    }


# Three wordings for each finding, the usual one first: what our own texts say. Each of them is read as its finding and
# as nothing else.
PHRASES: dict[str, tuple[str, str, str]] = {
    "ecg: normal ECG": ("normal ECG", "normal electrocardiogram", "unremarkable ECG"),
    "ecg: sinus rhythm": ("sinus rhythm at a normal rate", "normal sinus rhythm", "regular sinus rhythm"),
    "ecg: sinus tachycardia": ("sinus tachycardia", "sinus rate above 100", "fast sinus rhythm"),
    "ecg: sinus bradycardia": ("sinus bradycardia", "sinus rate below 60", "slow sinus rhythm"),
    "ecg: tachycardia": ("tachycardia", "heart rate above 100", "ventricular rate above 100"),
    "ecg: bradycardia": ("bradycardia", "heart rate below 60", "ventricular rate below 60"),
    "ecg: normal rate": ("normal heart rate", "heart rate is normal", "normal ventricular rate"),
    "ecg: fibrillation": (
        "irregularly irregular rhythm without P waves",
        "irregularly irregular beats with no P waves",
        "irregularly irregular RR intervals without discernible P waves",
    ),
    "ecg: flutter": ("sawtooth flutter waves", "flutter waves at 300, conducted 2:1", "sawtooth flutter waves, 2:1"),
    "ecg: rapid response": (
        "rapid ventricular response",
        "fast ventricular response",
        "rapid conduction to the ventricles",
    ),
    "ecg: paced": ("ventricular paced rhythm", "ventricular pacing", "paced beats"),
    "ecg: premature atrial beats": ("premature atrial beats", "premature atrial complexes", "atrial ectopy"),
    "ecg: premature ventricular beats": (
        "premature ventricular beats",
        "wide premature beats",
        "ventricular ectopy",
    ),
    "ecg: pause": ("sinus pause", "pause", "pauses"),
    "ecg: left atrial enlargement": ("left atrial enlargement", "left atrial abnormality", "broad P waves"),
    "ecg: prolonged PR": ("prolonged PR interval", "first-degree AV block", "PR above 200 ms"),
    "ecg: normal PR": ("normal PR interval", "normal PR", "PR interval within normal limits"),
    "ecg: left bundle branch block": (
        "left bundle branch block",
        "LBBB",
        "complete left bundle branch block",
    ),
    "ecg: right bundle branch block": (
        "right bundle branch block",
        "RBBB",
        "complete right bundle branch block",
    ),
    "ecg: wide QRS": ("wide QRS", "wide QRS complexes", "QRS above 120 ms"),
    "ecg: normal QRS": ("normal QRS", "narrow QRS complexes", "normal QRS duration"),
    "ecg: left axis": ("left axis deviation", "leftward axis", "leftward QRS axis"),
    "ecg: right axis": ("right axis deviation", "rightward axis", "rightward QRS axis"),
    "ecg: normal axis": ("normal axis", "normal QRS axis", "axis is normal"),
    "ecg: prolonged QTc": ("prolonged QTc", "QTc above 480 ms", "long QTc interval"),
    "ecg: normal QTc": ("normal QTc", "normal QTc interval", "QTc within normal limits"),
    "ecg: LVH voltage": ("voltage criteria for LVH", "LVH by voltage", "left ventricular hypertrophy by voltage"),
    "ecg: strain": ("strain pattern", "LV strain pattern", "lateral repolarization strain"),
    "ecg: low voltage": ("low QRS voltage", "low voltage", "small QRS complexes"),
    "ecg: poor R progression": ("poor R wave progression", "delayed R wave progression", "small R waves up to V3"),
    "ecg: inferior Q waves": (
        "Q waves in II, III and aVF",
        "inferior Q waves",
        "pathologic Q waves in II, III and aVF",
    ),
    "ecg: anteroseptal Q waves": (
        "Q waves in V1-V4",
        "anteroseptal Q waves",
        "pathologic Q waves in V1-V4",
    ),
    "ecg: anterior Q waves": ("Q waves in V3-V4", "anterior Q waves", "pathologic Q waves in V3-V4"),
    "ecg: septal Q waves": ("Q waves in V1-V2", "septal Q waves", "pathologic Q waves in V1-V2"),
    "ecg: ST elevation": ("ST elevation", "acute ST elevation", "ST elevation with reciprocal depression"),
    "ecg: ST depression": ("ST depression", "horizontal ST depression", "ischemic ST depression"),
    "ecg: lateral T inversion": (
        "lateral T wave inversion",
        "inverted T waves in V5-V6",
        "T wave inversion in V5-V6",
    ),
    "ecg: nonspecific ST-T": (
        "nonspecific ST-T changes",
        "minor nonspecific ST-T changes",
        "nonspecific ST-T wave abnormalities",
    ),
    "ecg: normal ST": ("no ST-T changes", "normal ST segments", "normal ST segments and T waves"),
    "ecg: tented T": ("tented T waves", "tall peaked T waves", "tall narrow T waves"),
    "ecg: U waves": ("prominent U waves", "flat T waves with U waves", "U waves after flat T waves"),
    "cxr: normal": ("normal chest X-ray", "no acute cardiopulmonary abnormality", "unremarkable chest radiograph"),
    "cxr: normal heart size": ("normal heart size", "heart not enlarged", "normal cardiac silhouette"),
    "cxr: enlarged heart": ("enlarged heart", "cardiomegaly", "enlarged cardiac silhouette"),
    "cxr: wide aorta": ("unfolded aorta", "widened aorta", "wide calcified aorta"),
    "cxr: edema": ("pulmonary edema", "pulmonary vascular congestion", "Kerley B lines and distended upper vessels"),
    "cxr: clear lungs": ("clear lungs", "lungs are clear", "no lung opacity"),
    **_zone_phrases(),
    "cxr: opacity": ("lung opacity", "airspace opacity", "consolidation"),
    "cxr: interstitial opacity": (
        "bilateral interstitial opacities",
        "interstitial markings in both lungs",
        "reticular opacities in both lungs",
    ),
    "cxr: atelectasis": ("basal atelectasis", "linear basal atelectasis", "platelike atelectasis"),
    "cxr: hyperinflation": ("hyperinflated lungs", "flattened diaphragms", "low flat diaphragms"),
    "cxr: right effusion": (
        "right pleural effusion",
        "right-sided pleural effusion",
        "blunted right costophrenic angle",
    ),
    "cxr: left effusion": (
        "left pleural effusion",
        "left-sided pleural effusion",
        "blunted left costophrenic angle",
    ),
    "cxr: bilateral effusions": (
        "bilateral pleural effusions",
        "pleural effusions on both sides",
        "blunted costophrenic angles on both sides",
    ),
    "cxr: effusion": ("pleural effusion", "effusion", "pleural effusions"),
    "cxr: pneumothorax": ("pneumothorax", "a pneumothorax", "pneumothoraces"),
    "cxr: tube": ("endotracheal tube", "endotracheal tube in place", "tube in the trachea"),
    "cxr: line": ("central venous line", "central venous catheter", "venous catheter in the superior vena cava"),
    "cxr: pacemaker": ("pacemaker", "implanted pacemaker", "pacemaker below the left clavicle"),
    "cxr: sternotomy wires": ("sternotomy wires", "median sternotomy wires", "wires of a sternotomy"),
    "lab: high Creatinine": ("elevated creatinine", "high creatinine", "creatinine above the range"),
    "lab: far high Creatinine": (
        "very high creatinine",
        "greatly elevated creatinine",
        "creatinine far above the range",
    ),
    "lab: normal Creatinine": ("normal creatinine", "creatinine in range", "creatinine within the reference range"),
    "lab: high Urea Nitrogen": ("elevated urea nitrogen", "high urea nitrogen", "urea nitrogen above the range"),
    "lab: high Potassium": ("hyperkalemia", "high potassium", "potassium above the range"),
    "lab: low Potassium": ("hypokalemia", "low potassium", "potassium below the range"),
    "lab: high Sodium": ("hypernatremia", "high sodium", "sodium above the range"),
    "lab: low Sodium": ("hyponatremia", "low sodium", "sodium below the range"),
    "lab: high Phosphate": ("elevated phosphate", "hyperphosphatemia", "phosphate above the range"),
    "lab: low Calcium, Total": ("low calcium", "hypocalcemia", "calcium below the range"),
    "lab: Glucose above 200": ("glucose above 200", "glucose over 200 mg/dL", "frank hyperglycemia"),
    "lab: Glucose between 140 and 200": (
        "glucose of 140 to 200",
        "glucose between 140 and 200",
        "moderate hyperglycemia",
    ),
    "lab: Glucose below 140": ("glucose below 140", "glucose under 140 mg/dL", "glucose less than 140"),
    "lab: low Bicarbonate": ("low bicarbonate", "reduced bicarbonate", "bicarbonate below the range"),
    "lab: high Anion Gap": ("wide anion gap", "elevated anion gap", "anion gap above the range"),
    "lab: high Lactate": ("elevated lactate", "high lactate", "lactate above the range"),
    "lab: low pH": ("acidemia", "low pH", "pH below the range"),
    "lab: high pH": ("alkalemia", "high pH", "pH above the range"),
    "lab: low pO2": ("low pO2", "hypoxemia", "pO2 below the range"),
    "lab: high pCO2": ("high pCO2", "hypercapnia", "pCO2 above the range"),
    "lab: high White Blood Cells": ("leukocytosis", "high white cell count", "white cells above the range"),
    "lab: normal White Blood Cells": ("normal white cell count", "normal white cells", "white cells in range"),
    "lab: low White Blood Cells": ("leukopenia", "low white cell count", "white cells below the range"),
    "lab: Neutrophils above 85": ("neutrophils above 85%", "neutrophils over 85%", "neutrophils exceeding 85%"),
    "lab: low Platelet Count": ("low platelets", "thrombocytopenia", "platelets below the range"),
    "lab: low Hemoglobin": ("anemia", "low hemoglobin", "hemoglobin below the range"),
    "lab: low Albumin": ("low albumin", "hypoalbuminemia", "albumin below the range"),
    "lab: INR(PT) at least 1.8": ("INR of 1.8 or more", "INR of 1.8 or higher", "INR of at least 1.8"),
    "lab: high Bilirubin, Total": ("elevated bilirubin", "hyperbilirubinemia", "bilirubin above the range"),
    "lab: high Alanine Aminotransferase (ALT) or Aspartate Aminotransferase (AST)": (
        "elevated transaminases",
        "elevated ALT or AST",
        "transaminases above the range",
    ),
    "lab: high Creatine Kinase (CK)": (
        "elevated creatine kinase",
        "high creatine kinase",
        "creatine kinase above the range",
    ),
}
