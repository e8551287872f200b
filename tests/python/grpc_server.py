"""A gRPC server by grpcio, with bytes as messages: what a mesh carries is the protocol, not the schema."""

import sys
import threading
from concurrent import futures

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-trailer", "kept"),))
    context.send_initial_metadata((("x-peer", metadata.get("x-forwarded-client-cert", "")),))
    return b"echo " + request


def stream(request, context):
    for n in range(int(request)):
        yield b"%d" % n


def bidi(requests, context):
    for request in requests:
        yield b"echo " + request


def at_end(context, call):
    # At the client's cancellation, at its deadline, and at a normal end; at once where the call is over already.
    if not context.add_callback(call):
        call()


def count(requests, context):
    messages = [len(request) for request in requests]
    return b"%d %d" % (len(messages), sum(messages))


def early(requests, context):
    next(requests)
    # The client is still sending: an answer before the request's end.
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


def endless(request, context):
    ended = threading.Event()
    at_end(context, ended.set)
    yield b"first"
    if ended.wait(20):
        print("endless: ended by the client", flush=True)


def remaining(request, context):
    return b"%f" % context.time_remaining()


def status(request, context):
    code = int(request)
    context.abort(next(known for known in grpc.StatusCode if known.value[0] == code), f"code {code}")


def slow(request, context):
    ended = threading.Event()
    at_end(context, ended.set)
    if ended.wait(20):
        print("slow: ended by the client", flush=True)
    return b"too late"


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 %")


def main(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "Count": grpc.stream_unary_rpc_method_handler(count),
        "Early": grpc.stream_unary_rpc_method_handler(early),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Remaining": grpc.unary_unary_rpc_method_handler(remaining),
        "Status": grpc.unary_unary_rpc_method_handler(status),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("weft.test.Echo", methods),))
    server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(sys.argv[1])
