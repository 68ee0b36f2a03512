# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.benchmarks`: one table of ratios, see `__main__`."""
