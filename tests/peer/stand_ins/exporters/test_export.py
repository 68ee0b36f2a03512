# SPDX-License-Identifier: Apache-2.0
class ExportTesterMixin:
    """Empty: `tests/modeling_medtvt/test_compile_medtvt.py` exports."""
