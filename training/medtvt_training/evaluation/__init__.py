# SPDX-License-Identifier: Apache-2.0
"""Answers to a dataset, and every measure of them."""
