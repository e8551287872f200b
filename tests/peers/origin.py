"""Python's http.server as an origin behind a gateway: origin.py <port>. It says of each request what it took it for, to the client and in its
output. Its parser is a lenient one: what it is given, it believes."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def log_error(self, text, *args):
        say(f"refused {text % args}")

    def size(self):
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            wanted = int(self.headers.get("content-length") or 0)
            return wanted, len(self.rfile.read(wanted))
        size = 0
        while piece := int(self.rfile.readline().split(b";")[0], 16):
            size += len(self.rfile.read(piece))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return size, size

    def any(self):
        try:
            wanted, got = self.size()
        except ValueError:
            wanted, got = 1, 0
        if wanted != got:
            say(f"broken {self.command} {self.path}")
            self.close_connection = True
            return
        say(f"whole {self.command} {self.path}")
        body = f"took {self.command} {self.path} {got}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = do_DELETE = do_PATCH = do_TRACE = any


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
say("listening")
server.serve_forever()
