"""Runs of a test are compared from its own folder, so that paths are short."""

import pytest


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
