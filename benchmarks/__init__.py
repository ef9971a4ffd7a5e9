"""Asks whether a method helps: model × method × task → records.

This file imports nothing, so that records, store and stats can be read without torch.
"""
