"""Requests of HTTP/2 that may not be valid: header lists as they are, each on a connection of its own.

    h2_odd_client.py <host> <port> <file>

The file has a list of [fields, body]: each field is a pair of name and value, a character for each octet; without a body the head ends
the request. Prints for each what came of it: status, some headers, the body, or an empty object where the stream or the connection was
ended.
"""

import json
import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.exceptions

KEPT = ("x-rule", "location", "weft-error")


def fetch(at, fields, body):
    config = h2.config.H2Configuration(
        client_side=True,
        header_encoding=False,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
        validate_inbound_headers=False,
    )
    http = h2.connection.H2Connection(config)
    seen = {}
    with socket.create_connection(at, timeout=20) as peer:
        http.initiate_connection()
        stream = http.get_next_available_stream_id()
        octets = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        http.send_headers(stream, octets, end_stream=body is None)
        if body is not None:
            http.send_data(stream, body.encode("latin-1"), end_stream=True)
        text = b""
        try:
            peer.sendall(http.data_to_send())
            while True:
                received = peer.recv(65536)
                if not received:
                    return {}
                for event in http.receive_data(received):
                    if isinstance(event, (h2.events.ConnectionTerminated, h2.events.StreamReset)):
                        return seen
                    if isinstance(event, h2.events.ResponseReceived):
                        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                        seen["status"] = headers[":status"]
                        seen.update({name: headers[name] for name in KEPT if name in headers})
                    elif isinstance(event, h2.events.DataReceived):
                        text += event.data
                        http.acknowledge_received_data(event.flow_controlled_length, stream)
                    elif isinstance(event, h2.events.StreamEnded):
                        seen["body"] = text.decode("latin-1")
                        return seen
                peer.sendall(http.data_to_send())
        except (ConnectionError, h2.exceptions.ProtocolError):
            return seen


def main(host, port, file):
    with open(file, encoding="utf-8") as requests:
        cases = json.load(requests)
    print(json.dumps([fetch((host, int(port)), fields, body) for fields, body in cases]))


if __name__ == "__main__":
    main(*sys.argv[1:])
