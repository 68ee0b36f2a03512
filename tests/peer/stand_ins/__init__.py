# SPDX-License-Identifier: Apache-2.0
"""What transformers' mixins import from its repository and its source distribution lacks. Copied beside them."""
