"""Creates a video without an encoder: a lossy WebP image is a key frame of VP8, which WebM can contain."""

import io
import random
import struct

from PIL import Image

SECONDS_PER_FRAME = 0.5


def make_video(seconds, size=(480, 270)):
    """Return a WebM video of noise, about 200 kB per second, so that a player does not load it all at once."""
    frames = [_noise(size, seed) for seed in range(4)]
    count = int(seconds / SECONDS_PER_FRAME)
    clusters = [_cluster(round(n * SECONDS_PER_FRAME * 1000), frames[n % len(frames)]) for n in range(count)]
    info = _element("1549A966", _uint("2AD7B1", 1_000_000), _element("4489", struct.pack(">d", seconds * 1000)))
    video = _element("E0", _uint("B0", size[0]), _uint("BA", size[1]))
    track = _element("AE", _uint("D7", 1), _uint("73C5", 1), _uint("83", 1), _element("86", b"V_VP8"), video)
    tracks = _element("1654AE6B", track)
    # The position of each frame, so that a player can seek. Every number takes eight bytes, so the index is as
    # long as one of zeros.
    start = len(info) + len(tracks) + len(_index([0] * count))
    positions = [start + sum(map(len, clusters[:n])) for n in range(count)]
    header = _element("1A45DFA3", _element("4282", b"webm"), _uint("4287", 2), _uint("4285", 2))
    return header + _element("18538067", info, tracks, _index(positions), *clusters)


def _index(positions):
    points = []
    for n, position in enumerate(positions):
        track_position = _element("B7", _uint("F7", 1), _uint("F1", position))
        points.append(_element("BB", _uint("B3", round(n * SECONDS_PER_FRAME * 1000)), track_position))
    return _element("1C53BB6B", *points)


def _cluster(milliseconds, frame):
    block = b"\x81" + struct.pack(">hB", 0, 0x80) + frame  # track 1, at the cluster's time, a key frame
    return _element("1F43B675", _uint("E7", milliseconds), _element("A3", block))


def _noise(size, seed):
    image = Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=60, method=0)
    data = buffer.getvalue()
    assert data[12:16] == b"VP8 ", "not a lossy image"
    return data[20 : 20 + struct.unpack("<I", data[16:20])[0]]


def _element(name, *parts):
    payload = b"".join(parts)
    return bytes.fromhex(name) + struct.pack(">Q", len(payload) | 1 << 56) + payload


def _uint(name, value):
    return _element(name, struct.pack(">Q", value))
