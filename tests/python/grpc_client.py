"""A gRPC client by grpcio: runs each kind of call once and prints what came of it as one JSON object.

    grpc_client.py <target>            every kind of call
    grpc_client.py <target> failure    one unary call, of which only the status is of interest
"""

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


def slowly():
    for _ in range(200):
        yield b"more"
        time.sleep(0.01)


def main(target, what="all"):
    channel = grpc.insecure_channel(target)
    method = "/weft.test.Echo/"
    unary = channel.unary_unary(method + "Unary")
    if what == "failure":
        print(json.dumps(failure(lambda: unary(b"hi", timeout=10))))
        return
    response, call = unary.with_call(b"hi", timeout=10, metadata=(("x-custom", "yes"),))
    seen = {
        "unary": response.decode(),
        "peer": dict(call.initial_metadata()).get("x-peer", ""),
        "trailer": dict(call.trailing_metadata()).get("x-trailer", ""),
    }
    # Tiny messages, tens of thousands: each is a DATA frame of a few bytes.
    tiny = 20_000
    seen["stream"] = sum(1 for _ in channel.unary_stream(method + "Stream")(b"%d" % tiny, timeout=30))
    count = channel.stream_unary(method + "Count")
    seen["count"] = count((b"x" for _ in range(tiny)), timeout=30).decode()
    seen["early"] = failure(lambda: channel.stream_unary(method + "Early")(slowly(), timeout=10))
    seen["remaining"] = float(channel.unary_unary(method + "Remaining")(b"", timeout=7))
    status = channel.unary_unary(method + "Status")
    seen["status"] = [failure(lambda code=code: status(b"%d" % code, timeout=10)) for code in range(1, 17)]
    sent = (b"%d" % n for n in range(50))
    seen["bidi"] = [m.decode() for m in channel.stream_stream(method + "Bidi")(sent, timeout=10)][-1]
    seen["fail"] = failure(lambda: channel.unary_unary(method + "Fail")(b"", timeout=10))
    seen["large"] = len(unary(b"x" * 1_000_000, timeout=10))

    begun = time.monotonic()
    seen["deadline"] = failure(lambda: channel.unary_unary(method + "Slow")(b"", timeout=0.3))[0]
    seen["deadline_took"] = time.monotonic() - begun

    future = channel.unary_unary(method + "Slow").future(b"", timeout=10)
    # Long enough to have begun at the server, on a busy machine, too.
    time.sleep(1)
    future.cancel()
    seen["cancel"] = future.code().name
    # A stream that is cancelled after its first message.
    endless = channel.unary_stream(method + "Endless")(b"", timeout=10)
    seen["endless"] = next(endless).decode()
    endless.cancel()
    # The cancellation is on its way; a channel that closes at once might take it along.
    time.sleep(0.3)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
