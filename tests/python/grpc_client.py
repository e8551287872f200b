"""A gRPC client by grpcio: runs each kind of call once and prints what came of it as one JSON object.

    grpc_client.py <target>            every kind of call
    grpc_client.py <target> failure    one unary call, of which only the status is of interest
"""

import json
import sys
import time

import grpc


# How long a call may take on a machine that does much else.
PATIENCE = 60


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
        print(json.dumps(failure(lambda: unary(b"hi", timeout=PATIENCE))))
        return
    response, call = unary.with_call(b"hi", timeout=PATIENCE, metadata=(("x-custom", "yes"),))
    seen = {
        "unary": response.decode(),
        "peer": dict(call.initial_metadata()).get("x-peer", ""),
        "trailer": dict(call.trailing_metadata()).get("x-trailer", ""),
    }
    # Tiny messages, tens of thousands: each is a DATA frame of a few bytes.
    tiny = 20_000
    seen["stream"] = sum(1 for _ in channel.unary_stream(method + "Stream")(b"%d" % tiny, timeout=PATIENCE))
    count = channel.stream_unary(method + "Count")
    seen["count"] = count((b"x" for _ in range(tiny)), timeout=PATIENCE).decode()
    seen["early"] = failure(lambda: channel.stream_unary(method + "Early")(slowly(), timeout=PATIENCE))
    seen["remaining"] = float(channel.unary_unary(method + "Remaining")(b"", timeout=PATIENCE))
    status = channel.unary_unary(method + "Status")
    seen["status"] = [failure(lambda code=code: status(b"%d" % code, timeout=PATIENCE)) for code in range(1, 17)]
    sent = (b"%d" % n for n in range(50))
    seen["bidi"] = [m.decode() for m in channel.stream_stream(method + "Bidi")(sent, timeout=PATIENCE)][-1]
    seen["fail"] = failure(lambda: channel.unary_unary(method + "Fail")(b"", timeout=PATIENCE))
    seen["large"] = len(unary(b"x" * 1_000_000, timeout=PATIENCE))

    def waiting():
        """How many calls of those that wait have begun at the server, and how many have ended."""
        told = channel.unary_unary(method + "Waiting")(b"", timeout=PATIENCE)
        return [int(count) for count in told.split()]

    def until(what, holds):
        end = time.monotonic() + PATIENCE
        while not holds(*waiting()):
            if time.monotonic() > end:
                sys.exit(f"waited in vain for {what}")
            time.sleep(0.01)

    # A call whose time is over before it was sent never comes to the server: then it has more time, and is no less one that
    # the server has to be told of.
    slow, limit = channel.unary_unary(method + "Slow"), 0.3
    while True:
        before, _ = waiting()
        seen["deadline"] = failure(lambda: slow(b"", timeout=limit))[0]
        if waiting()[0] > before or limit > PATIENCE:
            break
        limit *= 2

    before, _ = waiting()
    future = slow.future(b"", timeout=PATIENCE)
    until("the call to begin", lambda begun, _: begun > before)
    future.cancel()
    seen["cancel"] = future.code().name
    # A stream that is cancelled after its first message.
    endless = channel.unary_stream(method + "Endless")(b"", timeout=PATIENCE)
    seen["endless"] = next(endless).decode()
    endless.cancel()
    # A channel that closes might take the cancellations along.
    until("the calls to end", lambda begun, ended: begun == ended)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
