"""With accelerate, in two processes on the CPU: every sample once an epoch, none twice.

    torchrun --standalone --nproc_per_node 2 examples/accelerate_subset.py

The loader chooses its subset on rank 0, anew every two epochs, and shares an epoch among the
processes itself, so it is not prepared: all take equally many steps, and what fills up the last
batch has weight 0.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import Dataset

from lipt_cords import LiPTWarmStart, ReselectingLoader
from lipt_cords.data import load_dataset
from lipt_cords.models import build_model


class Numbered(Dataset):
    """Items with their index, to see afterwards who was read."""

    def __init__(self, inner: Dataset) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict:
        x, y = self.inner[index]
        return {"images": x, "labels": y, "index": index}


accelerator = Accelerator(cpu=True)
digits = load_dataset("digits", limit=600)
model = build_model("cnn", digits.num_classes, in_channels=1, image_size=8)
# Every process makes the same warm start; in a process group they would share it: launch="auto".
warm = LiPTWarmStart(num_workers=4, launch="serial").fit(model, digits.train)
model = warm.apply_to(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
model, optimizer = accelerator.prepare(model, optimizer)
loader = ReselectingLoader(
    Numbered(digits.train), 121, model, selector="gradmatch", every=2, batch_size=10
)
accelerator.register_for_checkpointing(loader)
for epoch in range(3):
    read = []
    for batch in loader:
        losses = torch.nn.functional.cross_entropy(
            model(batch["images"]), batch["labels"], reduction="none"
        )
        optimizer.zero_grad()
        accelerator.backward((batch["weights"] * losses).mean())
        optimizer.step()
        read += batch["index"][batch["weights"] > 0].tolist()
    everybody = gather_object(read)
    if accelerator.is_main_process:
        assert sorted(everybody) == sorted(loader.selection.indices.tolist()), "lost or doubled"
        print(
            f"epoch {epoch}: {len(everybody)} samples in {accelerator.num_processes} processes, "
            "each of the subset once"
        )
accelerator.wait_for_everyone()
model, optimizer = accelerator.free_memory(model, optimizer)
accelerator.end_training()
