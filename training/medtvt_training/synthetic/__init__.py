# SPDX-License-Identifier: Apache-2.0
"""A cohort of imaginary patients: causes, signs, signals, films, labs, and questions with answers."""
