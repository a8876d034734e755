"""An optimizer from outside: steps of one size, in the direction of the sign."""

import torch

from lipt_cords.training import register_optimizer


class SignSGD(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=group["lr"])


@register_optimizer("sign-sgd")
def sign_sgd(parameters, options):
    """SGD with the gradient's sign alone."""
    return SignSGD(parameters, {"lr": options.lr / 50})
