"""An application with health pages, on the server of Python's library. It writes down each request that it gets: the line, and the headers as they came."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        line = self.requestline.encode("latin-1").decode()
        print("asked:", json.dumps([line, self.headers.items()], ensure_ascii=False), flush=True)
        self.send_response(302 if self.path == "/login" else 200)
        self.send_header("location", "/logged-in?by=redirect")
        self.send_header("set-cookie", "session=secret")
        self.send_header("x-internal", "secret")
        self.send_header("content-length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
