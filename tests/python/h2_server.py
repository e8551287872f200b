"""An HTTP/2 server by `h2`, for what other servers do not do on purpose. The path picks a behaviour:

/hints            103 with a link, then 200
/reset-head/<n>   resets the stream with code n instead of an answer
/reset-body/<n>   answers, sends "part", and after a moment resets with code n
/enough           answers whole, and at once resets with NO_ERROR: it wants no more of the request (RFC 9113, 8.1)
/continue         100, then as below
/tunnel           echoes data as it comes (extended CONNECT, RFC 8441)
/wait             answers the head and then nothing; writes the code with which the client resets the stream
/hold             not even that, but 103, so that the client knows that the request is here
anything else     echoes the body, with a trailer, once the request has ended
"""

import socket
import sys
import threading
import time

import h2.config
import h2.connection
import h2.events
import h2.settings


class Connection(threading.Thread):
    def __init__(self, peer):
        super().__init__(daemon=True)
        self.peer = peer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        settings = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
        self.http.local_settings.update(settings)
        self.bodies = {}
        self.tunnels = set()

    def run(self):
        self.http.initiate_connection()
        self.flush()
        while data := self.peer.recv(65536):
            for event in self.http.receive_data(data):
                self.on(event)
            self.flush()

    def flush(self):
        self.peer.sendall(self.http.data_to_send())

    def on(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.request(event.stream_id, dict(event.headers)[b":path"].decode())
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self.tunnels:
                self.http.send_data(event.stream_id, event.data)
            if event.stream_id in self.bodies:
                self.bodies[event.stream_id].extend(event.data)
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            if event.stream_id in self.tunnels:
                self.http.end_stream(event.stream_id)
            body = self.bodies.pop(event.stream_id, None)
            if body is not None:
                self.http.send_headers(event.stream_id, [(":status", "200"), ("trailer", "x-sum")])
                self.http.send_data(event.stream_id, bytes(body))
                self.http.send_headers(event.stream_id, [("x-sum", str(len(body)))], end_stream=True)
        elif isinstance(event, h2.events.StreamReset):
            print(f"reset by the client with {int(event.error_code)}", flush=True)

    def request(self, stream, path):
        what, _, code = path.strip("/").partition("/")
        if what == "hints":
            self.http.send_headers(stream, [(":status", "103"), ("link", "</style.css>; rel=preload")])
            self.http.send_headers(stream, [(":status", "200")])
            self.http.send_data(stream, b"done", end_stream=True)
        elif what == "reset-head":
            self.http.reset_stream(stream, int(code))
        elif what == "reset-body":
            self.http.send_headers(stream, [(":status", "200")])
            self.http.send_data(stream, b"part")
            self.flush()
            # A reset may overtake what was sent just before it (RFC 9113 section 5.4.2 promises nothing).
            time.sleep(0.2)
            self.http.reset_stream(stream, int(code))
        elif what == "enough":
            self.http.send_headers(stream, [(":status", "200"), ("trailer", "x-sum")])
            self.http.send_data(stream, b"enough")
            self.http.send_headers(stream, [("x-sum", "early")], end_stream=True)
            self.http.reset_stream(stream, 0)
        elif what == "wait":
            self.http.send_headers(stream, [(":status", "200")])
        elif what == "tunnel":
            self.http.send_headers(stream, [(":status", "200")])
            self.tunnels.add(stream)
        elif what == "continue":
            self.http.send_headers(stream, [(":status", "100")])
            self.bodies[stream] = bytearray()
        elif what == "hold":
            self.http.send_headers(stream, [(":status", "103")])
        else:
            self.bodies[stream] = bytearray()


def main(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("listening", flush=True)
    while True:
        Connection(listener.accept()[0]).start()


if __name__ == "__main__":
    main(int(sys.argv[1]))
