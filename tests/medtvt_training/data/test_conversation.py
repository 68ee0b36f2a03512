# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from medtvt_training.data.conversation import list_modalities, message_text
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.rows import Modality
from medtvt_training.stages.initialize import default_processor
from modeling_medtvt import MedicalDiagnosisPipeline, MedTVTForCausalLM

from tests.toy import SUBSETS


@pytest.mark.parametrize("question", [None, "What is it?"])
@pytest.mark.parametrize("subset", SUBSETS[1:], ids=str)
def test_the_pipeline_lists_modalities_as_the_datasets_do(
    subset: tuple[Modality, ...],
    question: str | None,
    model: MedTVTForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    toy: Path,
) -> None:
    processor = default_processor(tokenizer)
    diagnose = MedicalDiagnosisPipeline(model=model, processor=processor, task="medical-diagnosis")
    patient = load_medtvt_qa(toy, "diagnosis", "train")[0]
    item: dict[str, Any] = {modality: patient[modality] for modality in subset}
    if question:
        item["question"] = question
    prompt = processor.batch_decode(diagnose.preprocess({"index": None, "item": item})["input_ids"])[0]
    assert message_text([{"content": list_modalities(subset)}]) in prompt
