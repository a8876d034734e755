"""Your own folder of images: warm up, select a share, train on it.

    python examples/images.py FOLDER

FOLDER holds a folder of images a class, or train/ and test/ with such folders. Without it, a small
one is made of bundled digits.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from lipt_cords import LiPTWarmStart, select, train_on_subset
from lipt_cords.data import load_dataset
from lipt_cords.models import build_model


def folder_of_digits(root: Path) -> Path:
    """600 digits as PNG files, a folder a class."""
    bundle = load_digits()
    for number, (pixels, label) in enumerate(zip(bundle.images, bundle.target, strict=True)):
        if number < 600:
            (root / str(label)).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((pixels * 15.9).astype("uint8")).resize((16, 16))
            image.save(root / str(label) / f"{number}.png")
    return root


def main(folder: Path, share: float = 0.2) -> None:
    data = load_dataset(f"imagefolder:{folder}", image_size=16)
    channels, size = data.input_shape[0], data.input_shape[-1]
    model = build_model("cnn", data.num_classes, in_channels=channels, image_size=size)
    warm = LiPTWarmStart(num_workers=4).fit(model, data.train, data.val)
    budget = int(share * len(data.train))
    subset = select("stratified", warm.gradients(data.train), budget)
    result = train_on_subset(
        warm.apply_to(model), data.train, subset, val_dataset=data.test, epochs=10, batch_size=16,
        lr=0.02,
    )  # fmt: skip
    print(f"{budget} of {len(data.train)} images in {data.num_classes} classes")
    print(f"test accuracy {result.val_accuracy:.1%}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as root:
            main(folder_of_digits(Path(root)))
