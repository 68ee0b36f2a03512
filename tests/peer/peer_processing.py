# SPDX-License-Identifier: Apache-2.0
import shutil
import tempfile
import unittest

import numpy as np
from PIL import Image
from transformers_tests.test_processing_common import ProcessorTesterMixin

import modeling_medtvt  # noqa: F401  (registers the processor)
from medtvt_training.stages.initialize import default_processor, tiny_tokenizer
from processing_medtvt import MedTVTProcessor


class MedTVTProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MedTVTProcessor
    image_token = "<cxr>"

    @classmethod
    def setUpClass(cls):
        cls.tmpdirname = tempfile.mkdtemp()
        cls.full_tmpdirname = None
        processor = default_processor(tiny_tokenizer())
        processor.save_pretrained(cls.tmpdirname)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmpdirname, ignore_errors=True)

    def get_component(self, attribute, use_tiny_ckpt=True, **kwargs):
        component = getattr(MedTVTProcessor.from_pretrained(self.tmpdirname), attribute)
        return type(component).from_pretrained(self.tmpdirname, **kwargs) if kwargs else component

    def prepare_images_inputs(self, batch_size=None, nested=False):
        film = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (200, 1)))
        if batch_size is None:
            return film
        return [[film]] * batch_size if nested else [film] * batch_size

    def test_model_input_names(self):
        # theirs passes a picture and no more, where the names are of all modalities
        processor = self.get_processor()
        inputs = processor(
            text="<ecg><cxr><lab>",
            ecg=np.random.default_rng(0).normal(size=(12, 5000)),
            cxr=self.prepare_images_inputs(),
            lab={"Sodium": 140},
            sampling_rate=500,
            leads=processor.ecg_feature_extractor.leads,
            unit="mV",
        )
        self.assertSetEqual(set(inputs), set(processor.model_input_names))
