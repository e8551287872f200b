"""An HTTP/2 client by `h2`: one request per path over one connection; prints what came of each as JSON.

    h2_client.py <host> <port> <path>...

A path that ends in `~<n>` is sent with a header of n bytes. A path `/tunnel` is asked for by extended CONNECT. A path that ends in `+` leaves its request body open. One that ends in `!<n>` is reset with code n once a head has come, an interim one as well.
"""

import json
import socket
import sys

import h2.config
import h2.connection
import h2.events


def fetch(peer, http, authority, target):
    target, _, large = target.partition("~")
    path, _, cancel = target.rstrip("+").partition("!")
    stream = http.get_next_available_stream_id()
    headers = [(":method", "POST"), (":scheme", "http"), (":authority", authority), (":path", path), ("te", "trailers")]
    if large:
        headers.append(("x", "x" * int(large)))
    if path == "/continue":
        headers.append(("expect", "100-continue"))
    if path == "/tunnel":
        headers[0:1] = [(":method", "CONNECT"), (":protocol", "websocket")]
    http.send_headers(stream, headers)
    if not cancel:
        http.send_data(stream, b"hello", end_stream=not target.endswith("+"))
    peer.sendall(http.data_to_send())
    seen = {"body": "", "interim": []}
    peer.settimeout(30)
    while True:
        events = http.receive_data(peer.recv(65536))
        peer.sendall(http.data_to_send())
        for event in events:
            if isinstance(event, h2.events.ConnectionTerminated):
                seen["goaway"] = int(event.error_code)
                return seen
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, h2.events.InformationalResponseReceived):
                seen["interim"].append({k.decode(): v.decode() for k, v in event.headers})
            elif isinstance(event, h2.events.ResponseReceived):
                seen["headers"] = {k.decode(): v.decode() for k, v in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                seen["body"] += event.data.decode()
                http.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.TrailersReceived):
                seen["trailers"] = {k.decode(): v.decode() for k, v in event.headers}
            elif isinstance(event, h2.events.StreamReset):
                seen["reset"] = int(event.error_code)
                return seen
            elif isinstance(event, h2.events.StreamEnded):
                return seen
        # A head or an interim answer: the server has the request. Before that the reset might come in its place.
        if cancel and ("headers" in seen or seen["interim"]):
            http.reset_stream(stream, int(cancel))
            peer.sendall(http.data_to_send())
            return seen


def main(host, port, *targets):
    peer = socket.create_connection((host, port))
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.initiate_connection()
    peer.sendall(http.data_to_send())
    print(json.dumps([fetch(peer, http, f"{host}:{port}", target) for target in targets]))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
