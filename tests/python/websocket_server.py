"""A WebSocket server by `websockets`: echoes every message; "close" makes it close with a code of its own."""

import socket
import sys

from websockets.sync.server import serve


def handler(peer):
    peer.send(peer.request.headers.get("x-forwarded-client-cert", ""))
    for message in peer:
        if message == "close":
            peer.close(4000, "enough")
            return
        peer.send(message)


def main(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    with serve(handler, sock=listener, subprotocols=["chat"], max_size=None) as server:
        print("listening", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
