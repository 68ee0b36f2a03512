# SPDX-License-Identifier: Apache-2.0
class GenerationTesterMixin:
    """Empty: `tests/modeling_medtvt/test_generation_medtvt.py` covers what the real one does."""
