"""A WebSocket client over HTTP/2 (RFC 8441) by `h2`: sends texts, prints the status, what came back, and the server's close, as JSON.

    h2_websocket_client.py <host> <port> <path> <text>...
"""

import json
import os
import socket
import sys

import h2.config
import h2.connection
import h2.events

TEXT, CLOSE = 1, 8


def frame(opcode, payload):
    """A frame of RFC 6455 section 5.2, masked as a client's is."""
    mask = os.urandom(4)
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + mask + bytes(octet ^ mask[n % 4] for n, octet in enumerate(payload))


class Stream:
    def __init__(self, host, port, path):
        self.peer = socket.create_connection((host, port))
        self.peer.settimeout(20)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.http.initiate_connection()
        self.status, self.ended, self.octets, self.error = None, False, b"", None
        self.id = 1
        # Whoever speaks RFC 8441 waits until the server has said that it does.
        self.allowed = False
        self.flush()
        while not self.allowed:
            self.take(self.peer.recv(65536))
        self.http.send_headers(self.id, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"),
            (":authority", f"{host}:{port}"), (":path", path),
            ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "http://page.test"),
        ])
        self.flush()
        while self.status is None and not self.ended:
            self.take(self.peer.recv(65536))

    def flush(self):
        self.peer.sendall(self.http.data_to_send())

    def take(self, data):
        for event in self.http.receive_data(data):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                self.allowed |= any(int(code) == 8 and change.new_value == 1 for code, change in event.changed_settings.items())
            elif isinstance(event, h2.events.ResponseReceived):
                self.status = dict(event.headers)[b":status"].decode()
                self.error = dict(event.headers).get(b"weft-error", b"").decode()
            elif isinstance(event, h2.events.DataReceived):
                self.octets += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, self.id)
            elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                self.ended = True
        self.flush()

    def send(self, opcode, payload):
        self.http.send_data(self.id, frame(opcode, payload))
        self.flush()

    def octets_of(self, count):
        while len(self.octets) < count:
            if self.ended:
                raise EOFError(self.octets)
            self.take(self.peer.recv(65536))
        taken, self.octets = self.octets[:count], self.octets[count:]
        return taken

    def receive(self):
        first, size = self.octets_of(2)
        if size == 126:
            size = int.from_bytes(self.octets_of(2), "big")
        return first & 15, self.octets_of(size)


def main(host, port, path, *texts):
    stream = Stream(host, port, path)
    seen = {"status": stream.status, "error": stream.error, "texts": []}
    if stream.status == "200":
        stream.receive()
        for text in texts:
            stream.send(TEXT, text.encode())
            seen["texts"].append(stream.receive()[1].decode())
        stream.send(TEXT, b"close")
        opcode, payload = stream.receive()
        seen["close"] = [opcode, int.from_bytes(payload[:2], "big"), payload[2:].decode()]
        stream.send(CLOSE, payload[:2])
        while not stream.ended:
            stream.take(stream.peer.recv(65536))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
