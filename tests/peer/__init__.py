# SPDX-License-Identifier: Apache-2.0
"""transformers' common tests of the installed version, run on our classes: `make peer`."""
