# SPDX-License-Identifier: Apache-2.0
import unittest
from typing import Any

from transformers_tests.test_feature_extraction_common import FeatureExtractionSavingTestMixin

from processing_medtvt import MedTVTEcgFeatureExtractor, MedTVTLabFeatureExtractor


class MedTVTEcgFeatureExtractionTest(FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = MedTVTEcgFeatureExtractor
    feat_extract_dict = {"duration": 5.0, "nan_policy": "zero"}


class MedTVTLabFeatureExtractionTest(FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = MedTVTLabFeatureExtractor
    feat_extract_dict: dict[str, Any] = {}
