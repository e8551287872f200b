"""Python's http.server, for stories that compare it with and without Weft: server.py <port>

Writes what it saw of each request in one piece, by the request's name (`?op=<name>`), and answers by the path.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0)), []
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        trailers = []
        while (line := self.rfile.readline().strip()):
            trailers.append(line.decode("latin-1").lower())
        return body, trailers

    def saw(self, body, trailers):
        lines = [f"@{self.path.rpartition('op=')[2]}", self.requestline]
        lines += [f"> {name}: {value}" for name, value in self.headers.items()]
        lines += [f"body {len(body)}"] + [f"trailer {line}" for line in trailers]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()

    def answer(self, code, body, *fields):
        self.send_response(code)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunked(self, trailer=b""):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        if trailer:
            self.send_header("Trailer", "X-Sum")
        self.end_headers()
        self.wfile.write(b"4\r\nsome\r\n4\r\nmore\r\n0\r\n" + trailer + b"\r\n")

    def any(self):
        path = self.path.partition("?")[0]
        if path == "/early":
            self.saw(b"", [])
            self.answer(413, b"too large\n", ("Connection", "close"))
            self.close_connection = True
            # As servers do that want the answer to arrive: the rest is read and thrown away.
            self.connection.shutdown(1)
            self.connection.settimeout(2)
            while self.rfile.read1(65536):
                pass
            return
        body, trailers = self.read_body()
        self.saw(body, trailers)
        if path == "/chunked":
            self.chunked()
        elif path == "/trailers":
            self.chunked(b"X-Sum: 12\r\n")
        elif path == "/hints":
            self.send_response_only(103, "Early Hints")
            self.send_header("Link", "</a.css>; rel=preload")
            self.end_headers()
            try:
                self.answer(200, b"hinted\n")
            except ConnectionError:
                # http.client takes the 103 for the answer and may have closed by now.
                self.close_connection = True
        elif path == "/empty":
            self.send_response(204)
            self.end_headers()
        elif path == "/abort":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
            self.close_connection = True
        elif path == "/close":
            self.answer(200, b"closing\n", ("Connection", "close"))
            self.close_connection = True
        elif path == "/old":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\nto the end")
            self.close_connection = True
        elif path.startswith("/status/"):
            self.answer(int(path[8:]), b"status\n")
        else:
            self.answer(200, b"read %d\n" % len(body), ("X-Train-Case", "1"), ("x-lower", "2"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = any


server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
