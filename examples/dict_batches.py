"""Text in dict batches, as Hugging Face's datasets give them, with a model that returns logits.

Which of scikit-learn's bundled data sets are a dozen words of its documentation about? The data set
below stands for a `datasets.Dataset` with `set_format("torch")`, whose items are such dicts.
"""

import re

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.utils.data import Dataset

from lipt_cords import LiPTWarmStart, select, train_on_subset

WORDS, VOCABULARY = 12, 2048
ABOUT = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")


class Snippets(Dataset):
    """A dozen words each, hashed to numbers, with the number of their data set as label."""

    def __init__(self, held_out: bool) -> None:
        self.items = []
        for label, name in enumerate(ABOUT):
            text = getattr(datasets, f"load_{name}")()["DESCR"].lower()
            words = [w for w in re.findall(r"[a-z]+", text) if w not in name]
            for number, start in enumerate(range(0, len(words) - WORDS, 3)):
                if (number % 5 == 0) == held_out:
                    ids = [sum(map(ord, w)) * 31 % VOCABULARY for w in words[start : start + WORDS]]
                    self.items.append({"input_ids": torch.tensor(ids), "labels": label})

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.items[index]


class BagOfWords(nn.Module):
    """Takes the whole batch but its labels, by name, as transformers' models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(VOCABULARY, 32, mode="mean")
        self.hidden = nn.Linear(32, 32)
        self.head = nn.Linear(32, len(ABOUT))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.embed(input_ids))))


train, test = Snippets(held_out=False), Snippets(held_out=True)
torch.manual_seed(0)
model = BagOfWords()
warm = LiPTWarmStart(num_workers=4).fit(model, train)
subset = select("craig", warm.gradients(train), budget=len(train) // 5)
result = train_on_subset(
    warm.apply_to(model), train, subset, val_dataset=test, epochs=20, batch_size=16, lr=0.2
)
print(f"{len(subset)} of {len(train)} snippets, test accuracy {result.val_accuracy:.1%}")
