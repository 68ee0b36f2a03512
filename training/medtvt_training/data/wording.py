# SPDX-License-Identifier: Apache-2.0
"""Wording that all written answers share."""

POINTERS = ("which fits", "pointing to", "in keeping with", "supporting")
