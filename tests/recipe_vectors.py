"""Makes the test vectors of the recipes: pictures, the encoders' inputs for them, and their codes.

    python tests/recipe_vectors.py                 pixels and codes of the pictures that are there
    python tests/recipe_vectors.py --pictures      the pictures too, with Debian's package openclipart-png

Afterwards tests/test_encoder_export.py says whether programs in other languages still get the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

import simrec
from simrec import images
from simrec.contracts import ImageSpec
from simrec.sources.load import load

PLACE = Path(simrec.__file__).parent / "data" / "recipes"
PICTURES = PLACE / "pictures"
ENCODERS = ("demo", "photo")
CLIP_ART = Path("/usr/share/openclipart/png")


def pictures() -> None:
    """Eight small pictures in the public domain or free to use; PNG if a decoder's rounding shouldn't matter."""
    from skimage import data

    PICTURES.mkdir(exist_ok=True)
    item = load("fashion-mnist:test", ImageSpec(), notice=print).images[0, :, :, 0]
    Image.fromarray(item).save(PICTURES / "item.png")  # 28 x 28, grey: `fashion` leaves it as it is
    shop = Image.new("L", (300, 260), 245)
    shop.paste(Image.fromarray(245 - item // 2).resize((190, 190), Image.Resampling.BICUBIC), (87, 21))
    shop.save(PICTURES / "shop.png", optimize=True)
    coffee, astronaut = Image.fromarray(data.coffee()), Image.fromarray(data.astronaut())
    coffee.crop((90, 60, 450, 380)).resize((28, 28)).save(PICTURES / "tiny.png", optimize=True)
    Image.open(CLIP_ART / "recreation/sports/tennis_shoes_jarno_vasam_.png").convert("RGBA").save(
        PICTURES / "transparent.png", optimize=True
    )
    drawing = Image.open(CLIP_ART / "food/beverages/coffee.png").convert("RGBA")
    drawing.quantize(32, Image.Quantize.FASTOCTREE).save(PICTURES / "palette.png", optimize=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = astronaut.crop((130, 0, 370, 480)).transpose(Image.Transpose.ROTATE_90)
    turned.save(PICTURES / "turned.jpg", quality=60, exif=exif)
    coffee.crop((0, 150, 600, 260)).resize((1400, 257), Image.Resampling.BICUBIC).save(
        PICTURES / "wide.jpg", quality=50
    )
    astronaut.crop((180, 0, 280, 430)).resize((90, 401)).save(PICTURES / "tall.png", optimize=True)


def vectors() -> None:
    """Writes the encoders' inputs for each picture as PNG, and the codes."""
    codes: dict[str, Any] = {}
    for name in ENCODERS:
        recommender = simrec.open(name)
        spec = recommender.manifest.encoder.input
        folder = PLACE / "prepared" / name
        folder.mkdir(parents=True, exist_ok=True)
        codes[name] = {"encoder_digest": recommender.manifest.encoder.digest, "codes": {}}
        for path in sorted(PICTURES.iterdir()):
            image = images.read(path, spec)
            images.as_picture(image[0]).save(folder / f"{path.stem}.png", optimize=True)
            code = recommender.encode(image)[0]
            codes[name]["codes"][path.name] = [float(f"{number:.6g}") for number in code]
    (PLACE / "codes.json").write_text(json.dumps(codes, indent=1).replace(",\n    ", ", ") + "\n")


if __name__ == "__main__":
    if "--pictures" in sys.argv:
        pictures()
    vectors()
