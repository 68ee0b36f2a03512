# SPDX-License-Identifier: Apache-2.0
import unittest

import pytest
from transformers_tests.test_configuration_common import ConfigTester

from modeling_medtvt import MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig

from .peer_modeling import MedTVTModelTester


@pytest.mark.parametrize(
    "config_class, kwargs",
    [
        (MedTVTConfig, {"num_modality_tokens": 2, "projector_depth": 1}),
        (MedTVTEcgConfig, {"num_leads": 8}),
        (MedTVTLabConfig, {"num_labs": 20}),
    ],
    ids=["MedTVTConfig", "MedTVTEcgConfig", "MedTVTLabConfig"],
)
class TestConfiguration:
    def test_config(self, config_class, kwargs):
        parent = unittest.TestCase()
        parent.model_tester = MedTVTModelTester(parent)
        tester = ConfigTester(
            parent,
            config_class=config_class,
            has_text_modality=False,
            common_properties=list(kwargs),
            **kwargs,
        )
        tester.run_common_tests()
