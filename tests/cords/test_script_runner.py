"""``python -m lipt_cords.cords_plugin``: a script of CORDS's kind, unedited."""

from __future__ import annotations

import re
import textwrap

import pytest
from programs import run_program

from lipt_cords.cords.__main__ import main

TRAINER = """
    import logging
    import sys
    import wandb
    import torch
    import torch.nn as nn
    from ray import tune
    from cords.utils.data.data_utils import WeightedSubset
    from cords.utils.data.dataloader.SL.adaptive import GLISTERDataLoader, RandomDataLoader
    from cords.utils.data.dataloader.SL.nonadaptive import FacLocDataLoader
    from cords.utils.config_utils import load_config_data

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Linear(5, 7), nn.Linear(7, 2)
        def forward(self, x):
            return self.head(torch.relu(self.hidden(x)))

    class Trainer:
        def __init__(self, path):
            self.cfg = load_config_data(path)
            self.logger = logging.getLogger("trainer")
            self.logger.setLevel(logging.INFO)
            self.logger.addHandler(logging.StreamHandler(sys.stdout))

        def train(self):
            torch.manual_seed(0)
            y = torch.arange(80) % 2
            data = torch.utils.data.TensorDataset(torch.randn(80, 5) + 2 * y[:, None], y)
            trainloader = torch.utils.data.DataLoader(data, batch_size=20, sampler=None)
            model = Net()
            if self.cfg.train_args.wandb:
                wandb.watch(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            if self.cfg.dss_args.type in ["GLISTER", "GLISTER-Warm"]:
                self.cfg.dss_args.model = model
                self.cfg.dss_args.loss = nn.CrossEntropyLoss(reduction="none")
                self.cfg.dss_args.eta = 0.1
                self.cfg.dss_args.num_classes = 2
                self.cfg.dss_args.num_epochs = self.cfg.train_args.num_epochs
                self.cfg.dss_args.device = self.cfg.train_args.device
                dataloader = GLISTERDataLoader(trainloader, trainloader, self.cfg.dss_args,
                                               self.logger, batch_size=8, shuffle=True)
            elif self.cfg.dss_args.type in ["Random"]:
                dataloader = RandomDataLoader(trainloader, self.cfg.dss_args, self.logger)
            for epoch in range(self.cfg.train_args.num_epochs):
                for inputs, targets, weights in dataloader:
                    optimizer.zero_grad()
                    losses = self.cfg.dss_args.loss(model(inputs), targets)
                    (losses @ weights / weights.sum()).backward()
                    optimizer.step()
            accuracy = (model(data.tensors[0]).argmax(1) == y).float().mean()
            print("accuracy", float(accuracy), "report", dataloader.warm_start_report is not None)
            if getattr(self.cfg, "report_tune", False):
                tune.report(mean_accuracy=accuracy)
"""

SCRIPT = """
    import sys
    from trainer import Trainer
    print("arguments", sys.argv[1:], __name__)
    if __name__ == "__main__":
        Trainer(sys.argv[1]).train()
        sys.exit(3)
"""

CONFIG = """
    config = dict(
        dss_args=dict(type="GLISTER", fraction=0.2, select_every=2, kappa=0.5, linear_layer=True,
                      selection_type="PerClass", greedy="Naive",
                      warm_start=dict(type="lipt", num_workers=2, epochs=2, common_steps=5,
                                      launch="serial")),
        train_args=dict(num_epochs=4, device="cpu", wandb=False),
        report_tune=True,
    )
"""


def test_a_training_script_runs_unchanged(tmp_path):
    for name, text in (("trainer", TRAINER), ("run", SCRIPT), ("config", CONFIG)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    config = tmp_path / "config.py"
    # CORDS imports its CRAIG too, whose search would be compiled.
    done = run_program(
        "-m", "lipt_cords.cords_plugin", tmp_path / "run.py", config, "--flag",
        NUMBA_DISABLE_JIT="1",
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert f"arguments ['{config}', '--flag'] __main__" in said
    assert "kappa=0.5 was ignored" in said
    assert re.search(r"LiPT warm start: \d+ sample-passes, \d+ on the critical path", said)
    assert "report True" in said
    assert float(said.split("accuracy ")[1].split()[0]) > 0.8
    # It asked for a report to ray, which is not there: the one thing that is an error.
    assert done.returncode == 1
    assert "ImportError: ray.tune.report was called, but it is not available here" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [([], False), (["no/such/script.py", "--flag"], True)],
)
def test_no_script(arguments, named, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "usage: python -m lipt_cords.cords_plugin SCRIPT" in said
    assert ("no script at no/such/script.py" in said) == named
