# SPDX-License-Identifier: Apache-2.0
"""MedTVT-QA from open data sets in their published layout: real ECGs and films, and what their labels say of them."""
