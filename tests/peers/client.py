"""Python's http.client: client.py <host> <server>=<port>...

One connection per server, as long as it lasts. Each operation writes `@<server>.<operation>` and what it saw.
"""

import http.client
import sys

host = sys.argv[1]
BIG = b"x" * 2_000_000

OPERATIONS = [
    ("get", "GET", "/echo", None, {"X-Order-B": "1", "x-order-a": "2"}),
    ("post", "POST", "/echo", b"body", {}),
    ("chunked-up", "POST", "/echo", iter([b"some", b"more"]), {}),
    ("put", "PUT", "/echo", b"put", {"Content-Type": "text/plain"}),
    ("delete", "DELETE", "/echo", None, {}),
    ("get-body", "GET", "/echo", b"body", {}),
    ("head", "HEAD", "/echo", None, {}),
    ("chunked", "GET", "/chunked", None, {}),
    ("trailers", "GET", "/trailers", None, {"TE": "trailers", "Connection": "TE"}),
    ("hints", "GET", "/hints", None, {}),
    ("404", "GET", "/status/404", None, {}),
    ("299", "GET", "/status/299", None, {}),
    ("empty", "GET", "/empty", None, {}),
    ("early", "POST", "/early", BIG, {}),
    ("close", "GET", "/close", None, {}),
    ("old", "GET", "/old", None, {}),
    ("abort", "GET", "/abort", None, {}),
    ("last", "GET", "/echo", None, {"Connection": "close"}),
]

for server in sys.argv[2:]:
    name, _, port = server.partition("=")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    for operation, method, path, body, headers in OPERATIONS:
        print(f"@{name}.python.{operation}")
        if not isinstance(body, (bytes, type(None))):
            body = iter([b"some", b"more"])
        try:
            connection.request(method, f"{path}?op={name}.python.{operation}", body, headers)
        except OSError as error:
            # The answer may be there already.
            if operation != "early":
                print("sending failed", type(error).__name__)
        try:
            answer = connection.getresponse()
            print(answer.status, answer.reason)
            for field, value in answer.getheaders():
                print(f"> {field}: {value}")
            print("body", answer.read())
            if operation == "hints":
                # http.client takes a 103 for the answer: what follows on this connection would be read for the next operation.
                connection.close()
        except Exception as error:
            print("error", type(error).__name__)
            connection.close()
