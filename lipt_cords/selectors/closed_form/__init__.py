"""Difficulty and judgement in closed form: ridge regression, without training."""

from lipt_cords.selectors.closed_form.ridge import OutOfSample, leave_one_out

__all__ = ["OutOfSample", "leave_one_out"]
