"""The one CRI call that matters here, `runtime.v1.ImageService/PullImage`, over gRPC.

The two messages are small enough to be written down as bytes; that spares the tests a code generator.
"""

import grpc


def pull_image(socket, image, auth=None, timeout=120):
    """Pulls as kubelet does; `auth` is (user name, password) of a pull secret. Returns the image reference."""
    # PullImageRequest { ImageSpec image = 1 { string image = 1 }; AuthConfig auth = 2 { username = 1; password = 2 } }
    request = field(1, field(1, image.encode()))
    if auth:
        request += field(2, field(1, auth[0].encode()) + field(2, auth[1].encode()))
    with grpc.insecure_channel(f"unix://{socket}") as channel:
        call = channel.unary_unary("/runtime.v1.ImageService/PullImage", lambda message: message, lambda message: message)
        answer = call(request, timeout=timeout, wait_for_ready=True)
    # PullImageResponse { string image_ref = 1 }
    assert answer[0] == 0x0A, answer
    return answer[2:2 + answer[1]].decode()


def field(number, value):
    """A length-delimited protobuf field."""
    out, length = bytes([number << 3 | 2]), len(value)
    while length >= 0x80:
        out, length = out + bytes([length & 0x7F | 0x80]), length >> 7
    return out + bytes([length]) + value
