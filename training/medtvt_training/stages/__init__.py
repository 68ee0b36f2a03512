# SPDX-License-Identifier: Apache-2.0
"""The training stages: encoders, PT, SFT and RFT."""
