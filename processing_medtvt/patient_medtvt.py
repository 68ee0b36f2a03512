# SPDX-License-Identifier: Apache-2.0
"""Age and sex of a patient."""

from typing import Literal, TypedDict


class Patient(TypedDict):
    """What is known of a patient: `age` in years and `sex`, "F" or "M"; None where it is not known. They choose reference ranges, and never enter the model."""

    age: float | None
    sex: Literal["F", "M"] | None


__all__ = ["Patient"]
