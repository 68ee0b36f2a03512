# SPDX-License-Identifier: Apache-2.0
"""The shipped weights' metrics on records of the synthetic cohort, drawn anew with a fixed seed."""

import json
from pathlib import Path
from typing import Any

from medtvt_training.evaluation.run import Records, Scoring, evaluate_model
from medtvt_training.synthetic.cohort import write_cohort
from modeling_medtvt import DEFAULT_CHECKPOINT


RECORDS = 50
