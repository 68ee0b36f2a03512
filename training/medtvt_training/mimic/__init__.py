# SPDX-License-Identifier: Apache-2.0
"""MedTVT-QA from the tables, signals and films of MIMIC."""
