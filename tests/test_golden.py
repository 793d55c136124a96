"""The fixture `golden`: a missing file and another text fail, and only --update-golden writes."""

from __future__ import annotations

import pytest


def test_a_golden_file_is_compared_and_written_only_on_request(golden, request, monkeypatch, tmp_path):
    monkeypatch.setattr(request.node, "path", tmp_path / "test_it.py")
    path = tmp_path / "golden" / "page.html"
    monkeypatch.setattr(request.config.option, "update_golden", False)
    with pytest.raises(pytest.fail.Exception) as missing:
        golden("ä\r\n1\n", "page.html")
    assert str(path) in str(missing.value) and "--update-golden" in str(missing.value)
    assert not path.exists()
    monkeypatch.setattr(request.config.option, "update_golden", True)
    golden("ä\r\n1\n", "page.html")
    assert path.read_bytes() == "ä\r\n1\n".encode()
    monkeypatch.setattr(request.config.option, "update_golden", False)
    golden("ä\r\n1\n", "page.html")
    with pytest.raises(AssertionError):
        golden("ä\r\n2\n", "page.html")
    assert path.read_bytes() == "ä\r\n1\n".encode()
