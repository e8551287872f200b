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


def until_ended(context, what):
    """Waits for the client to end the call. Who looks at the end is a callback, not the handler: grpcio may close a handler that is
    a generator, and has just yielded, without running it again."""
    ended = threading.Event()

    def end():
        waiting.end(what)
        ended.set()

    waiting.begin(what)
    # At the client's cancellation, at its deadline, and at a normal end; at once where the call is over already.
    if not context.add_callback(end):
        end()
    return ended


def count(requests, context):
    messages = [len(request) for request in requests]
    return b"%d %d" % (len(messages), sum(messages))


def early(requests, context):
    next(requests)
    # The client is still sending: an answer before the request's end.
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


def endless(request, context):
    ended = until_ended(context, "endless")
    yield b"first"
    ended.wait(60)


def remaining(request, context):
    return b"%f" % context.time_remaining()


def status(request, context):
    code = int(request)
    context.abort(next(known for known in grpc.StatusCode if known.value[0] == code), f"code {code}")


def slow(request, context):
    until_ended(context, "slow").wait(60)
    return b"too late"


class Waiting:
    """The calls that wait for their client to end them. A call that its client gives up may never arrive: what has, says this."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun = self.ended = 0

    def begin(self, what):
        with self.lock:
            self.begun += 1
        print(f"{what}: begun", flush=True)

    def end(self, what):
        # In this order: whoever is told of the end finds it in the log.
        print(f"{what}: ended", flush=True)
        with self.lock:
            self.ended += 1

    def tell(self, request, context):
        with self.lock:
            return b"%d %d" % (self.begun, self.ended)


waiting = Waiting()


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
        "Waiting": grpc.unary_unary_rpc_method_handler(waiting.tell),
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
