"""A WebSocket client by `websockets`: text, binary, ping, and the server's close; prints what it saw as JSON."""

import json
import random
import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect


def main(url):
    seen = {"texts": []}
    with connect(url, subprotocols=["chat"], max_size=None, proxy=None) as socket:
        seen["peer"] = socket.recv(timeout=10)
        seen["subprotocol"] = socket.subprotocol
        for text in ["hello", "", "ünïcödé"]:
            socket.send(text)
            seen["texts"].append(socket.recv(timeout=10))
        # Random bytes: compression (permessage-deflate) must not make them small.
        large = random.Random(1).randbytes(300_000)
        socket.send(large)
        echoed = socket.recv(timeout=10)
        seen["large"] = len(echoed) if echoed == large else "differs"
        seen["pong"] = socket.ping().wait(10)
        socket.send("close")
        try:
            socket.recv(timeout=10)
        except ConnectionClosed as closed:
            seen["close"] = [closed.rcvd.code, closed.rcvd.reason]
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
