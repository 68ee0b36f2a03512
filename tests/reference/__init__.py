# SPDX-License-Identifier: Apache-2.0
"""Curves and metrics that a change of ours, or of a library, must not move unseen; `refresh` measures them anew."""
