"""Pictures as tests see them: rendered to pixels, and read as XML."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import vl_convert

SVG = "{http://www.w3.org/2000/svg}"
_FRAME = 2  # pixels at the edge that nothing may touch
_PIXELS = 60_000


def check_picture(svg: str) -> ET.Element:
    """Return a picture as XML after checking that it has a name, is drawn, and that nothing touches its edge."""
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[0].text
    pixels = render(svg)
    page = pixels[0, 0]
    drawn = (pixels != page).any(axis=2)
    assert drawn.sum() > 200
    inner = np.zeros_like(drawn)
    inner[_FRAME:-_FRAME, _FRAME:-_FRAME] = True
    assert not (drawn & ~inner).any()
    return root


def list_texts(root: ET.Element) -> list[str]:
    """Return the texts that a picture shows."""
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def render(svg: str) -> np.ndarray:
    """Return the pixels of a picture, as [height, width, 4]."""
    root = ET.fromstring(svg)
    area = float(root.get("width", 1)) * float(root.get("height", 1))
    content = vl_convert.svg_to_png(svg, scale=min(1.0, (_PIXELS / area) ** 0.5))
    place, data, width, height = 8, b"", 0, 0
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        part = content[place + 8 : place + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colors = struct.unpack(">IIBB", part[:10])
            assert (depth, colors) == (8, 6)
        data += part if kind == b"IDAT" else b""
        place += size + 12
    return _unfilter(zlib.decompress(data), width, height)


def _unfilter(data: bytes, width: int, height: int) -> np.ndarray:
    """Undo the filters of PNG (https://www.w3.org/TR/png-3/#9Filters). Each row looks at the one above."""
    size = 4 * width
    above, rows = bytearray(size), []
    for y in range(height):
        kind, line = data[y * (size + 1)], bytearray(data[y * (size + 1) + 1 : (y + 1) * (size + 1)])
        if kind == 2:
            line = bytearray((np.frombuffer(line, np.uint8) + np.frombuffer(above, np.uint8)).tobytes())
        elif kind:
            for place in range(size):
                left, corner = (line[place - 4], above[place - 4]) if place > 3 else (0, 0)
                line[place] = (line[place] + _guess(kind, left, above[place], corner)) & 255
        rows.append(line)
        above = line
    return np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, 4)


def _guess(kind: int, left: int, up: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 3:
        return (left + up) // 2
    to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner
