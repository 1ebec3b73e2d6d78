"""HTTP/1.1 requests to the byte, made before anything is measured."""

BOUNDARY = "benchmark-of-covid-xray"


def build_request(path: str, file: bytes) -> bytes:
    """Write a POST of a form with one file, on a connection that stays open.

    Args:
        path: Of the URL.
        file: PNG or JPEG, told by its first byte.
    """
    kind = "jpeg" if file.startswith(b"\xff") else "png"
    form = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="xray.{kind}"\r\n'
        f"Content-Type: image/{kind}\r\n\r\n"
    ).encode()
    body = form + file + f"\r\n--{BOUNDARY}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "Accept: application/json\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
