"""Small ICC profiles (version 2) written by hand, whose colours can be worked out."""

import struct

PRIMARIES = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]  # sRGB's
D50 = (0.9642, 1, 0.8249)
LINEAR = b"curv" + bytes(8)  # no entries: the identity


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _fixed(*values) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(65536 * v) for v in values))


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Header, table of tags, tags: ICC.1:2001, section 6."""
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02100000, b"prtr", space, connection)
    head += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + _fixed(*D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _rgb(*primaries) -> bytes:
    """Of linear light."""
    named = zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, primaries), strict=True)
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), LINEAR)
    return _profile(b"RGB ", b"XYZ ", {b"wtpt": _xyz(D50), **dict(named), **curves})


def _cmyk() -> bytes:
    """Cyan alone is white, all other corners are black: a table of 2 levels of each ink, in Lab."""
    corners = [(255 if k == 0b1000 else 0, 128, 128) for k in range(16)]  # bits: C, M, Y, K
    same = bytes(range(256))
    matrix = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    colours = b"".join(map(bytes, corners))
    table = b"mft1" + bytes((0, 0, 0, 0, 4, 3, 2, 0)) + matrix + 4 * same + colours + 3 * same
    return _profile(b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": table})


red, green, blue = PRIMARIES
SWAPPED = _rgb(green, red, blue)
GREY = _profile(b"GRAY", b"XYZ ", {b"wtpt": _xyz(D50), b"kTRC": LINEAR})
CMYK = _cmyk()
