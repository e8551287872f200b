"""A gRPC server with the health checking protocol: the whole server is well, the service `broken` is not."""

import sys
from concurrent import futures

import grpc

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def check(request, context):
    return NOT_SERVING if b"broken" in request else SERVING


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
method = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
)
server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
print("listening", flush=True)
server.wait_for_termination()
