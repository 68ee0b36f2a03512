# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.data.conversation import list_modalities, message_text
from modeling_medtvt import MedicalDiagnosisPipeline

from ...conftest import SUBSETS


@pytest.mark.parametrize("subset", SUBSETS[1:], ids=str)
def test_the_pipeline_lists_modalities_as_the_datasets_do(subset):
    listed = message_text([{"content": list_modalities(subset)}])
    assert listed in MedicalDiagnosisPipeline._prompt(list(subset), None)
    assert listed in MedicalDiagnosisPipeline._prompt(list(subset), "What is it?")
