"""What a process that serves does besides the application."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
from lirdrec.server.main import _application
from lirdrec.server.config import ServerConfig

_application(ServerConfig(sys.argv[1]))
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_what_was_imported_is_left_out_of_full_collections(shop):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(shop)], capture_output=True, text=True, check=True)
    frozen, left = map(int, done.stdout.split())
    assert frozen > 100_000 and left < 10_000
