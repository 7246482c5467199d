#!/usr/bin/env python3
"""Asks an agent for its status with grpcio, over its unix socket as docs/OPERATIONS.md recommends it.

    python3 tests/grpc/ask.py unix:/run/foreword/node.sock

grpcio names a unix socket by its path in each request's `:authority`, percent signs and all, which is no authority and which HTTP/2
servers refuse (PROTOCOL_ERROR). A client gives one of its own: any name will do, nobody reads it.
"""

import json
import sys

import grpc

OPTIONS = [("grpc.default_authority", "localhost")]


def main() -> None:
    with grpc.insecure_channel(sys.argv[1], options=OPTIONS) as channel:
        stats = channel.unary_unary("/foreword.node.v1.Node/Stats")
        answer = stats(b"", timeout=60, wait_for_ready=True)
    print(json.dumps({"answer_bytes": len(answer)}))


if __name__ == "__main__":
    main()
