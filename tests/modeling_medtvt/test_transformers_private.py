# SPDX-License-Identifier: Apache-2.0
import functools
import importlib

import pytest

from modeling_medtvt.transformers_private import PRIVATE_NAMES


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_what_the_packages_rely_on_is_still_there(name):
    module, attributes = name.split(":")
    functools.reduce(getattr, attributes.split("."), importlib.import_module(module))
