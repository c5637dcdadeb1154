"""The process that tests start others from outlives whoever asks it."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ASKED = json.dumps({"words": ["-c", "import time; time.sleep(60)"], "files": [], "folder": "/", "environment": {}})
QUESTION = len(ASKED).to_bytes(4, "big") + ASKED.encode()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is warm")
@pytest.mark.parametrize("length", [0, 2, 4, 20, len(QUESTION)])
def test_a_client_that_is_killed_leaves_the_others_theirs(request: pytest.FixtureRequest, length: int) -> None:
    folder: Path = request.getfixturevalue("_warm_folder")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / "door"))
        client.send(QUESTION[:length])
    done = subprocess.run([folder / "python", "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"
