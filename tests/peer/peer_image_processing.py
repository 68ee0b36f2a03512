# SPDX-License-Identifier: Apache-2.0
import unittest

from transformers_tests.test_image_processing_common import ImageProcessingTestMixin, prepare_image_inputs

from processing_medtvt import MedTVTImageProcessor


class MedTVTImageProcessingTester:
    batch_size, num_channels, min_resolution, max_resolution = 7, 3, 30, 400

    def __init__(self, parent):
        self.parent = parent
        self.image_processing_classes = {"pil": MedTVTImageProcessor}

    def prepare_image_processor_dict(self):
        return {
            "do_resize": True,
            "size": {"height": 18, "width": 18},
            "do_normalize": True,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        }

    def expected_output_image_shape(self, images):
        return self.num_channels, 18, 18

    def prepare_image_inputs(self, equal_resolution=False, numpify=False, torchify=False):
        return prepare_image_inputs(
            batch_size=self.batch_size,
            num_channels=self.num_channels,
            min_resolution=self.min_resolution,
            max_resolution=self.max_resolution,
            equal_resolution=equal_resolution,
            numpify=numpify,
            torchify=torchify,
        )


class MedTVTImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = MedTVTImageProcessingTester
