# SPDX-License-Identifier: Apache-2.0
"""The default teacher: rules and a few wordings, no model. It says what the evidence lists and nothing else."""

from collections.abc import Sequence

from ..data.conversation import MODALITIES
from ..data.wording import POINTERS
from .evidence import supported_diseases
from .prompts import TITLES, Request, pick


VERSION = 2
NOTHING = ("nothing notable", "no notable finding")
UNSUPPORTED = (
    "Conclusion: without a sign of its own here, treated or silent disease stays possible: {}.",
    "Conclusion: no direct evidence in these data, yet possible: {}.",
)
SUPPORTED = ("Conclusion: together this supports {}.", "Conclusion: the findings point to {}.")
NO_DISEASE = (
    "Conclusion: none of the seven diseases is established by these findings.",
    "Conclusion: these findings establish none of the seven diseases.",
)


class TemplateTeacher:
    """Writes from the evidence of a request; the same words for the same request."""

    identity = {"teacher": "template", "version": VERSION}
    host = None
    concurrency = 1
    attempts = 1

    def answer(self, request: Request, attempt: int = 0) -> str:
        """The text of an answer."""
        if request.level == "physiology":
            return " ".join(request.evidence[request.modalities[0]].lines)
        return self._chain_of_evidence(request)

    def _chain_of_evidence(self, request: Request) -> str:
        diseases = request.row["diseases"]
        lines, supported = [], []

        def choose(options: Sequence[str], *of: object) -> str:
            return options[pick(len(options), request.messages[-1]["content"], *of)]

        for modality in MODALITIES:
            if modality not in request.evidence:
                continue
            clauses = []
            for statement in request.evidence[modality].statements:
                of_finding = supported_diseases(modality, statement, diseases)
                supported += of_finding
                pointer = f", {choose(POINTERS, statement)} {' and '.join(of_finding)}" if of_finding else ""
                clauses.append(statement + pointer)
            lines.append(f"{TITLES[modality]}: {'; '.join(clauses) or choose(NOTHING, modality)}.")
        rest = [disease for disease in diseases if disease not in supported]
        if rest:
            lines.append(choose(UNSUPPORTED, "rest").format(" and ".join(rest)))
        elif diseases:
            lines.append(choose(SUPPORTED, "rest").format(" and ".join(diseases)))
        else:
            lines.append(choose(NO_DISEASE, "rest"))
        return "<think>" + "\n".join(lines) + f"\n</think><answer>{'; '.join(diseases)}</answer>"
