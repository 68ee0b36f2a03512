# SPDX-License-Identifier: Apache-2.0
"""What is the same in every card of a model, whatever its form."""

PURPOSE = (
    "Research on multimodal models of ECG, X-ray and laboratory data, as a baseline, for ablations, as the start of further "
    "training."
)
OUT_OF_SCOPE = "Any decision about a patient, triage, screening, and any use as a medical device."
ERROR_HANDLING = (
    "Inputs that cannot be what they should be are refused with the reason; what is altered, imputed or in doubt is listed "
    "in `warnings`; each statement of the reasoning is held against what is measured (`evidence`), and abnormal "
    "measurements that it leaves out are listed (`unmentioned`)."
)
WORKFLOW = (
    "It was tried in no clinical workflow, and with no clinician in the loop. It reads files, answers in text, and writes "
    "nothing back to any record."
)
LIMITS = (
    "It knows seven diseases. All others go unmentioned, and their absence from an answer says nothing.",
    "The reasoning is generated text. It may cite findings that are not there, and need not be why the answer came out.",
    "The scores of the contribution gate are not shares, and no proof of what was used.",
    "Another population, device, laboratory or lead order is another distribution.",
    "`score` is the share of drawn answers that name a disease, and no calibrated probability unless that was measured.",
)
