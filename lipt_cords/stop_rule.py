"""When a warm start of several rounds may end early."""

from __future__ import annotations

from pydantic import Field, model_validator

from lipt_cords.strict import StrictModel


class StopRule(StrictModel):
    """When a warm start of several rounds may end early: once all given conditions hold.

    Each is a signal of :class:`lipt_cords.warmstart.stability.Stability`, measured on held-out
    data every few rounds. With the schedule ``wsd`` a third of the rounds so far follows, in which
    the rate falls to zero; the others end at once.
    """

    benefit: float | None = Field(None, gt=0, lt=1)
    """Stop when the merged model's loss fell by less than this share over the last quarter of
    the critical path; 0.05 is a good value. The one to use by itself."""
    merged_loss: float | None = Field(None, gt=0)
    """Stop when the merged model's held-out loss falls below this."""
    rank_correlation: float | None = Field(None, gt=-1, lt=1)
    """Stop when the split-half rank correlation of the losses exceeds this."""
    class_cosine: float | None = Field(None, gt=-1, lt=1)
    """Stop when the pairwise cosine of the class-mean gradients exceeds this."""

    @model_validator(mode="after")
    def _some_condition(self) -> StopRule:
        if not self.model_dump(exclude_none=True):
            raise ValueError(
                "stop_when needs a condition, such as benefit=0.05: set one of "
                + ", ".join(type(self).model_fields)
            )
        return self
