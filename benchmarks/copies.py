"""Copies of recordings for benchmarks.duplicates: ``python -m benchmarks.copies manifest=CSV out=DIR``, by the program ffmpeg.

Every fifth recording of the manifest is encoded anew in each of ``COPIES``. Then ``disentangled embed manifest=DIR/manifest.csv ...``.
"""

import csv
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

EVERY, PROCESSES = 5, 2
MP3 = "-c:a libmp3lame -b:a"
# What ffmpeg is told behind its input, and the suffix of the file.
COPIES = {
    "mp3 at 128 kbit/s, stereo": (f"{MP3} 128k -ac 2", ".mp3"),
    "mp3 at 64 kbit/s": (f"{MP3} 64k", ".mp3"),
    "mp3 at 32 kbit/s": (f"{MP3} 32k", ".mp3"),
    "mp3 of variable rate, quality 9": ("-c:a libmp3lame -q:a 9", ".mp3"),
    "m4a at 96 kbit/s": ("-c:a aac -b:a 96k", ".m4a"),
    "m4a at 32 kbit/s": ("-c:a aac -b:a 32k", ".m4a"),
    "opus at 64 kbit/s": ("-c:a libopus -b:a 64k -ar 48000", ".opus"),
    "opus at 16 kbit/s": ("-c:a libopus -b:a 16k -ar 48000", ".opus"),
    "ogg of quality 0.5": ("-c:a libvorbis -q:a 0.5", ".ogg"),
    "ogg of quality 0": ("-c:a libvorbis -q:a 0", ".ogg"),
    "ogg of quality -1": ("-c:a libvorbis -q:a -1", ".ogg"),
    "wav": ("", ".wav"),
    "wav of 8 kHz": ("-ar 8000", ".wav"),
    "12 dB softer": (f"-af volume=-12dB {MP3} 128k", ".mp3"),
    "8 dB more bass, 6 dB less treble": (f"-af bass=g=8,treble=g=-6 {MP3} 128k", ".mp3"),
    "compressed 6:1": (f"-af acompressor=threshold=0.05:ratio=6:makeup=4 {MP3} 128k", ".mp3"),
    "0.3 s of silence before": ("-af adelay=300:all=1", ".wav"),
    "2 s of silence before": ("-af adelay=2000:all=1", ".wav"),
    "1 s cut off before": ("-ss 1", ".wav"),
    "3 s before, 2 s behind cut off": ("-ss 3 -t 25", ".wav"),
    "1 % faster": ("-af asetrate=22050*1.01,aresample=22050", ".wav"),
}


def main(argv: Sequence[str]) -> None:
    given = dict(argument.split("=", 1) for argument in argv)
    manifest, out = Path(given["manifest"]), Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[::EVERY]
    copies = []
    for number, (kind, (told, suffix)) in enumerate(COPIES.items()):
        for row in rows:
            path = out / f"{row['track_id']}-{number}{suffix}"
            copies.append((f"{row['track_id']}~{kind}", manifest.parent / row["path"], told, path))
    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(encode, copies))
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerows([("track_id", "path"), *((name, path.name) for name, _, _, path in copies)])


def encode(copy: tuple[str, Path, str, Path]) -> None:
    _, source, told, path = copy
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *told.split(), path], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
