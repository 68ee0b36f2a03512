# SPDX-License-Identifier: Apache-2.0
"""Commands and training of MedTVT-R1."""
