"""What the machine lacks is told before anything is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def test_compiling_without_a_compiler_is_refused(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("training.compile_model=true", "model/size=ci", "training.device=cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = refused(*words)
    assert "training.compile_model=true needs the C++ compiler no-such-compiler" in line
    assert "training.compile_model=false" in line
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert "needs the C++ compiler" in refused(*words)
