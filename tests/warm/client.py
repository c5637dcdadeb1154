"""Stands in for ``python`` where a test starts a process: the process is a fork of the server's.

What it is given goes along: words, folder, environment, open files. Signals are passed on, and it ends as the fork ends;
where it is killed itself, so is the fork.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def main(address: str, words: list[str]) -> int:
    """Exit status of the process, negative for the signal that ended it."""
    listed = list(Path("/proc/self/fd").iterdir())
    files = [int(file.name) for file in listed if file.exists()]  # not the listing's own
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        asked = {"words": words, "files": files, "folder": str(Path.cwd()), "environment": dict(os.environ)}
        content = json.dumps(asked).encode()
        socket.send_fds(server, [len(content).to_bytes(4, "big")], files)
        server.sendall(content)
        process = int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big")
        for number in PASSED_ON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: os.kill(process, number))
        return int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big", signed=True)


if __name__ == "__main__":
    status = main(sys.argv[1], sys.argv[2:])
    if status < 0:
        if -status in PASSED_ON:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)
