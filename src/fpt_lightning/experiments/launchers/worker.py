"""A warm process that makes runs one after the other: torch is imported once, not once a run.

Orders come in on its standard input, a line of JSON each; answers go out on a pipe of their own. It ends when whoever
sends the orders is gone, in the middle of a run if need be: the run goes on from its checkpoint another time.
"""

import dataclasses
import importlib
import json
import os
import queue
import sys
import threading
from typing import TextIO

from fpt_lightning.experiments.launchers.orders import Order, carry_out, check


def serve(orders: TextIO, answers: TextIO) -> None:
    """Carries out orders until there are no more to come."""
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders, inbox), daemon=True).start()
    importlib.import_module("fpt_lightning.cli")  # seconds, before the first order rather than in its time
    while True:
        order = json.loads(inbox.get())
        if "check" in order:
            answer = {"check": check(order["check"])}
        else:
            answer = dataclasses.asdict(carry_out(Order(**{**order, "words": tuple(order["words"])})))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _listen(orders: TextIO, inbox: "queue.SimpleQueue[str]") -> None:
    for line in orders:
        inbox.put(line)
    os._exit(0)


if __name__ == "__main__":
    serve(sys.stdin, os.fdopen(int(sys.argv[1]), "w"))
