"""A gRPC client by grpcio: runs each kind of call once and prints what came of it as one JSON object."""

import json
import sys
import time

import grpc


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return ["OK", ""]


def main(target):
    channel = grpc.insecure_channel(target)
    method = "/weft.test.Echo/"
    unary = channel.unary_unary(method + "Unary")
    response, call = unary.with_call(b"hi", timeout=10, metadata=(("x-custom", "yes"),))
    seen = {
        "unary": response.decode(),
        "peer": dict(call.initial_metadata()).get("x-peer", ""),
        "trailer": dict(call.trailing_metadata()).get("x-trailer", ""),
    }
    seen["stream"] = sum(1 for _ in channel.unary_stream(method + "Stream")(b"1000", timeout=10))
    sent = (b"%d" % n for n in range(50))
    seen["bidi"] = [m.decode() for m in channel.stream_stream(method + "Bidi")(sent, timeout=10)][-1]
    seen["fail"] = failure(lambda: channel.unary_unary(method + "Fail")(b"", timeout=10))
    seen["large"] = len(unary(b"x" * 1_000_000, timeout=10))

    begun = time.monotonic()
    seen["deadline"] = failure(lambda: channel.unary_unary(method + "Slow")(b"", timeout=0.3))[0]
    seen["deadline_took"] = time.monotonic() - begun

    future = channel.unary_unary(method + "Slow").future(b"", timeout=10)
    time.sleep(0.3)
    future.cancel()
    seen["cancel"] = future.code().name
    # The cancellation is on its way; a channel that closes at once might take it along.
    time.sleep(0.3)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
