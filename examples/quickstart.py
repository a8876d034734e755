"""A warm start, a subset, a training on it: ten lines of the package on bundled digits."""

from lipt_cords.data import load_dataset
from lipt_cords.models import build_model
from lipt_cords.selectors import select
from lipt_cords.training.subset import train_on_subset
from lipt_cords.warmstart import LiPTWarmStart

digits = load_dataset("digits")
model = build_model("cnn", digits.num_classes, in_channels=1, image_size=8)

warm = LiPTWarmStart(num_workers=8).fit(model, digits.train, digits.val)
subset = select("gradmatch", warm.gradients(digits.train), 130)
warm.apply_to(model)
result = train_on_subset(
    model, digits.train, subset, val_dataset=digits.test, epochs=20, batch_size=16, lr=0.02
)
print(f"{len(subset)} images after {warm.report.critical_path_passes} passes on the critical path")
print(f"test accuracy {result.val_accuracy:.1%}")
