"""Hypothesis for the whole suite: examples may take as long as a busy machine makes them take."""

from hypothesis import settings

settings.register_profile("suite", settings(), deadline=None)
settings.load_profile("suite")
