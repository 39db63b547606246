"""Drawn pictures of four classes, in mixed sizes, modes and file formats, some of them broken."""

import csv
import pathlib

import numpy as np
import PIL.Image
import PIL.ImageDraw

CLASSES = ("circle", "cross", "square", "étoile")
MODES = ("RGB", "L", "RGBA", "P", "CMYK", "I;16", "1", "LA")
_SUFFIXES = {"CMYK": ".jpg", "I;16": ".png", "RGB": ".jpg", "P": ".gif"}
BROKEN = {
    "circle/empty.png": b"",
    "circle/text.jpg": b"this is not a picture",
    "cross/short.png": None,  # a picture that is cut short
    "square/header.bmp": b"BM" + bytes(60),
    "étoile/half.jpg": None,
}


def draw(label: int, seed: int, mode: str) -> PIL.Image.Image:
    """Returns a picture of a shape in one of the modes, of a size between 24 and 72."""
    rng = np.random.default_rng([label, seed])
    width, height = rng.integers(24, 72, 2).tolist()
    dark, bright = rng.integers(0, 90), rng.integers(150, 256)
    image = PIL.Image.new("RGB", (width, height), (int(dark), int(dark) // 2, int(dark)))
    pen = PIL.ImageDraw.Draw(image)
    radius = min(width, height) * rng.uniform(0.25, 0.42)
    x, y = width / 2 + rng.uniform(-2, 2), height / 2 + rng.uniform(-2, 2)
    box = (x - radius, y - radius, x + radius, y + radius)
    colour = (int(bright), int(bright), int(bright) // 2)
    if label == 0:
        pen.ellipse(box, fill=colour)
    elif label == 1:
        pen.line((x - radius, y, x + radius, y), fill=colour, width=4)
        pen.line((x, y - radius, x, y + radius), fill=colour, width=4)
    elif label == 2:
        pen.rectangle(box, outline=colour, width=3)
    else:
        pen.regular_polygon((x, y, radius), 3, rotation=int(rng.integers(360)), fill=colour)
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return PIL.Image.fromarray(grey)
    return image.convert(mode)


def save(image: PIL.Image.Image, path: pathlib.Path) -> pathlib.Path:
    """Saves a picture in a format for its mode; every fifth JPEG on its side, with EXIF."""
    path = path.with_suffix(_SUFFIXES.get(image.mode, ".png"))
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {}
    if path.suffix == ".jpg" and image.mode == "RGB" and image.width % 5 == 0:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        options, image = {"exif": exif}, image.rotate(90, expand=True)
    image.save(path, **options)
    return path


def make_folder(root: pathlib.Path, *, count: int = 60, broken: bool = True) -> pathlib.Path:
    """Draws `count` pictures of each class into class folders, and five broken files."""
    for label, name in enumerate(CLASSES):
        for i in range(count):
            save(draw(label, i, MODES[i % len(MODES)]), root / name / f"{i:03d}.x")
    for name, content in BROKEN.items() if broken else ():
        if content is None:
            picture = save(draw(0, 1000, "RGB"), root / "scratch.x").with_suffix(".jpg")
            content = picture.read_bytes()[:300]
            picture.unlink()
        (root / name).write_bytes(content)
    return root


def make_csv(root: pathlib.Path, **columns: dict[str, str]) -> pathlib.Path:
    """Lists a folder of class folders in a CSV file in it, with other columns by path."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".csv")
    names = [path.relative_to(root).as_posix() for path in reversed(paths)]
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "path", *columns])
        for name in names:
            writer.writerow(
                [name.split("/")[0], name, *(values.get(name, "") for values in columns.values())]
            )
    return root / "labels.csv"
